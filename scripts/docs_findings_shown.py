"""A model, or an audit, that raises each finding: what the finding pages show, and the build and the tests run."""

from __future__ import annotations

from dataclasses import dataclass

WITHOUT = ("certificate-contradicted", "interrupted")
"""An error of ours would be needed for the one, a hand on the keyboard for the other."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Lines of Python before the audit, and what the audit is given."""

    setup: str = ""
    model: str = "model"
    n: int = 30
    eps: str = "0.15"
    more: str = ""
    imports: tuple[str, ...] = ()


_MISLED = """
class Misled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -gradient
"""
_BLIND = ', attacks=["pgd:step_size=0,random_start=false"]'
_FEW_STEPS = ', attacks=["pgd:steps=10,step_size=0.02,random_start=false"{more}]'
_BROKEN = """
class Broken(sp.attacks.Attack):
    def run(self, problem):
        return {returned}
"""

SHOWN = {
    "evasion": Shown(),
    "probability-outputs": Shown(model="lambda x: model(x).softmax(1)"),
    "train-mode": Shown(setup="model.train()"),
    "batch-dependence": Shown(model="lambda x: model(x - 0.5 * x.mean(0, keepdim=True))"),
    "narrow-input-range": Shown(setup="images = images / 20", model="lambda x: model(20 * x)", eps="0.01"),
    "single-class-data": Shown(
        n=200, setup="only = labels == 3\nimages, labels = images[0 : len(images)][only], labels[only]"
    ),
    "at-chance": Shown(setup="labels = (labels + 1) % 10"),
    "wrong-normalisation": Shown(n=60, model="lambda x: model(x / 255)"),
    "nothing-may-change": Shown(eps="0", more=', attacks=["fgsm"]'),
    "nothing-to-attack": Shown(more=', targets=labels, attacks=["fgsm"]'),
    "robustness-fell": Shown(
        n=60,
        setup='before = sp.audit(model, images, labels, sp.ThreatModel("linf", 0.05), attacks=["fgsm"])',
        eps="0.05",
        model="lambda x: model(0.5 * x)",
        more=', attacks=["fgsm"], baseline=before',
    ),
    "loss-replaced": Shown(
        n=100,
        setup="few = labels < 2\nimages, labels = images[0 : len(images)][few], labels[few]",
        model="lambda x: model(x)[:, :2]",
        more=', attacks=["pgd:steps=5,loss=dlr"]',
    ),
    "unusable-numbers": Shown(
        imports=("import torch",),
        setup="""
def burst(z):
    return torch.where(z.amax(1, keepdim=True) < 2.5, torch.full_like(z, torch.nan), z)


sure = model(images).amax(1) > 6
images, labels = images[0 : len(images)][sure], labels[sure]
""",
        n=60,
        model="lambda x: burst(model(x))",
        more=', attacks=["fgsm"]',
    ),
    "candidates-rejected": Shown(
        setup=_BROKEN.format(returned="1 - problem.images"), n=10, eps="0.3", more=', attacks=[Broken(), "pgd"]'
    ),
    "small-sample": Shown(n=20, eps="0.05"),
    "random-outputs": Shown(imports=("import torch",), n=20, model="lambda x: model(x + 0.05 * torch.randn_like(x))"),
    "no-gradient": Shown(n=20, model="lambda x: model(x.detach())"),
    "zero-gradient": Shown(n=20, model="lambda x: model((x * 16).round() / 16)"),
    "gradient-misleads": Shown(
        imports=("import torch",),
        n=10,
        model="lambda x: model(x + 0.004 * torch.sin(400 * torch.pi * x))",
        more=', attacks=["pgd:steps=5"]',
    ),
    "blocked-gradient": Shown(
        imports=("import torch",),
        setup="""
class Rounded(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net((x * 16).round() / 16)
""",
        n=20,
        model="Rounded(model)",
    ),
    "stronger-attack-found": Shown(more=', attacks=["random_noise"]'),
    "vanishing-cross-entropy": Shown(n=20, model="lambda x: 1000 * model(x)"),
    "noise-beats-gradient": Shown(
        imports=("import torch",),
        setup=_MISLED,
        n=40,
        eps="0.3",
        model="lambda x: model(Misled.apply(x))",
        more=_FEW_STEPS.format(more=', "random_noise:draws=50"'),
    ),
    "one-step-beats-many": Shown(
        imports=("import torch",),
        setup="""
class OnlyAtData(torch.autograd.Function):  # a gradient only where pixels have the grey levels of the data
    @staticmethod
    def forward(ctx, x):
        ctx.known = ((16 * x - (16 * x).round()).abs() < 1e-6).flatten(1).all(1)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.known.view(-1, 1, 1, 1)
""",
        n=20,
        model="lambda x: model(OnlyAtData.apply(x))",
        more=', attacks=["fgsm", "pgd:steps=10,step_size=0.01,random_start=false"]',
    ),
    "unbounded-survivors": Shown(
        imports=("import torch",),
        setup=_MISLED,
        n=40,
        eps="0.3",
        model="lambda x: model(Misled.apply(x))",
        more=_FEW_STEPS.format(more=', "random_noise:draws=50"'),
    ),
    "gradient-free-wins": Shown(n=16, more=_BLIND),
    "search-found-more": Shown(n=20, model="lambda x: model((x * 16).round() / 16)"),
    "gradient-underflow": Shown(
        imports=("import torch",),
        setup="""
class Faint(torch.nn.Module):  # logits so small that float32 loses their gradients
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return 3e-44 * self.net(x)
""",
        n=24,
        model="Faint(model)",
    ),
    "unstable-loss": Shown(
        imports=("import torch",),
        n=20,
        model="lambda x: model(x + 0.05 * torch.sin(9999 * x) * torch.cos(7777 * x.flip(2)))",
    ),
    "success-does-not-grow": Shown(
        imports=("import torch",),
        setup="""
class OnlySome(torch.autograd.Function):  # a gradient only near every other one of the pictures
    @staticmethod
    def forward(ctx, x):
        known = images[0 : len(images)]
        ctx.even = torch.cdist(x.flatten(1), known.flatten(1)).argmin(1) % 2 == 0
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.even.view(-1, 1, 1, 1)
""",
        n=24,
        model="lambda x: model(OnlySome.apply(x))",
    ),
    "more-steps-help": Shown(n=40, more=', attacks=["pgd:steps=2,step_size=0.01,random_start=false"]'),
    "transfer-wins": Shown(
        imports=("import torch",),
        setup=_MISLED,
        n=40,
        eps="0.25",
        model="lambda x: model(Misled.apply(x))",
        more=', attacks=["pgd:steps=10,random_start=false"]',
    ),
    "surrogate-only": Shown(
        imports=("import torch",),
        setup="""
class Elsewhere(sp.attacks.Attack):
    def run(self, problem):
        other = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        return sp.attacks.FGSM()(other, problem.images, problem.goal, problem.threat)
""",
        n=12,
        more=", attacks=[Elsewhere()]",
    ),
    "silent-success": Shown(
        setup="""
class Forgetful(sp.attacks.Attack):
    def run(self, problem):
        direction = problem.region.steepest_step(problem.gradient(problem.images, "margin").grad)
        problem.logits((problem.images + direction).clamp(problem.region.lower, problem.region.upper))
        return problem.images
""",
        n=12,
        more=", attacks=[Forgetful()]",
    ),
}


def example(code: str) -> str:
    """The page's block of Python: an audit in which the finding appears, and what it says there."""
    shown = SHOWN[code]
    effort = "" if "attacks=" in shown.more else ', effort="quick"'
    lines = [
        *shown.imports,
        *([""] if shown.imports else []),
        "import sparring as sp",
        "",
        'model = sp.load_model("digits-cnn")',
        f'images, labels = sp.load_data("digits", n={shown.n})',
    ]
    if shown.setup:
        setup = shown.setup.strip("\n")
        apart = "\n\n" if setup.startswith(("class", "def")) else ""
        lines.append(f"{apart}{setup}{apart}")
    lines += [
        f'threat = sp.ThreatModel("linf", {shown.eps})',
        f"report = sp.audit({shown.model}, images, labels, threat{effort}{shown.more})",
        "for finding in report.findings:",
        f'    if finding.code == "{code}":',
        '        print("resolved:" if finding.resolved else "unresolved:", finding.evidence)',
    ]
    return "\n".join(lines)


EXAMPLES = {code: example(code) for code in SHOWN}

"""A few lines of Python per finding that show it again, with nothing but sparring's public names and torch.

They show the same phenomenon on the same model and data; where the audit drew a sample, the numbers differ a little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from sparring.attacks import FGSM, Attack, RandomNoise
from sparring.auditing.checks import GRADIENT_FREE, WHOLE_BOX_ATTACKS, survivors_of, whole_box
from sparring.auditing.report import Comparison, Finding
from sparring.auditing.request import Request
from sparring.budget import parse_number
from sparring.evaluation import Evaluation, Record
from sparring.model import device_of
from sparring.threat import Threat, ThreatModel

FEW = 64
DETOUR_FIT = 32
"""Images that a script's detours are fitted to."""
ROWS = 16
"""Images a script names one by one, at most."""


def with_replay(
    finding: Finding, request: Request, evaluation: Evaluation, comparison: Comparison | None = None
) -> Finding:
    """The finding with its script."""
    if finding.code == "robustness-fell" and comparison is not None:
        rows = [changed.index for changed in comparison.newly_broken]
        lines = _on_rows(request, rows, request.used(evaluation))
    else:
        lines = _SCRIPTS[finding.code](request, evaluation)
    return finding.model_copy(update={"replay": "\n".join([*_preamble(finding.code, request), *lines, ""])})


def _preamble(code: str, request: Request) -> list[str]:
    lines = ["import torch", "", "import sparring as sp", ""]
    if request.setup is None:
        given = "model, images, labels" + ("" if request.targets is None else ", targets")
        given += "" if getattr(request.threat, "mask", None) is None else ", mask"
        lines.append(f"# {given}: as audited ({_comment(request.model_name)} on {_comment(request.data_name)})")
    else:
        lines += request.setup.rstrip("\n").splitlines()
    if request.adapted and code not in _ABOUT_THE_MODEL_AS_IT_IS:
        lines.append('model = sp.model.OutputAdapter(model, "probabilities")')
    detours = getattr(request.model, "detours", None)
    if detours and code not in _ABOUT_ITS_OWN_GRADIENT:
        lines += ["from sparring.diagnosis.detours import Detour, Detoured", ""]
        lines.append(f"model = Detoured(model, {detours!r}, images[:{DETOUR_FIT}])")
    return [*lines, f"threat = {_threat(request.threat)}", ""]


def _comment(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _threat(threat: Threat) -> str:
    if type(threat).__module__.startswith("sparring.perturbations."):
        return f"sp.perturbations.{threat!r}"
    if not isinstance(threat, ThreatModel):
        return f"...  # {_comment(repr(threat))}"
    text = threat.eps_text
    eps = repr(text) if "/" in text and parse_number(text) == threat.eps else repr(threat.eps)
    box = "" if threat.bounds == (0.0, 1.0) else f", bounds={threat.bounds}"
    return f"sp.ThreatModel({threat.norm!r}, {eps}{box}{'' if threat.mask is None else ', mask=mask'})"


def _specs(attacks: Sequence[Attack]) -> str:
    return repr([str(attack) for attack in attacks])


def _few(request: Request, n: int = FEW) -> list[str]:
    """The first images and labels, where the model is and as it answers when it serves."""
    device = device_of(request.model, request.images[0:1])
    there = "" if device.type == "cpu" else f".to({str(device)!r})"
    lines = [f"x, y = images[:{n}]{there}, labels[:{n}]{there}"]
    return [*lines, "model.eval()"] if isinstance(request.model, nn.Module) else lines


def _evaluate(request: Request, attacks: str, *, part: str = "", threat: str = "threat") -> str:
    targets = "" if request.targets is None else f", targets=targets{part}"
    return f"sp.evaluate(model, images{part}, labels{part}, {threat}, attacks={attacks}{targets}, seed={request.seed})"


def _on_rows(request: Request, rows: Sequence[int], attacks: Sequence[Attack], threat: str = "threat") -> list[str]:
    """Chosen images, `ROWS` at most, under some attacks: how many stand."""
    lines = [
        f"rows = {list(rows[:ROWS]) or list(range(min(ROWS, len(request.labels))))}",
        "images, labels = torch.cat([images[i : i + 1] for i in rows]), labels[rows]",
    ]
    if request.targets is not None:
        lines.append("targets = targets[rows]")
    return [*lines, f"print({_evaluate(request, _specs(attacks), threat=threat)}.robust_accuracy)"]


def _evasion(request: Request, evaluation: Evaluation) -> list[str]:
    record = min((r for r in evaluation.records if r.broken_by), key=_effort)
    part = f"[{record.index}:{record.index + 1}]"
    return [
        f"evaluation = {_evaluate(request, repr([record.broken_by]), part=part)}",
        "print(evaluation.records[0])",
    ]


def _effort(record: Record) -> tuple[int, int]:
    return record.forwards + record.backwards, record.index


def _outputs(request: Request, evaluation: Evaluation) -> list[str]:
    del evaluation
    return [
        *_few(request),
        "with torch.no_grad():",
        "    outputs = model(x)",
        "print(outputs.min(), outputs.max(), outputs.sum(1)[:5])",
    ]


def _train_mode(request: Request, evaluation: Evaluation) -> list[str]:
    del request, evaluation
    return ["print([name or 'the model' for name, module in model.named_modules() if module.training][:5])"]


def _randomness(request: Request, evaluation: Evaluation) -> list[str]:
    del evaluation
    return [*_few(request), "with torch.no_grad():", "    print((model(x) - model(x)).abs().max())"]


def _company(request: Request, evaluation: Evaluation) -> list[str]:
    del evaluation
    alone = "torch.cat([model(x[i : i + 1]) for i in range(len(x))])"
    return [*_few(request, 8), "with torch.no_grad():", f"    print((model(x) - {alone}).abs().max())"]


def _no_gradient(request: Request, evaluation: Evaluation) -> list[str]:
    del request, evaluation
    return [
        "try:",
        "    sp.attacks.FGSM()(model, images[:1], sp.Untargeted(labels[:1]), threat)",
        "except sp.SparringError as error:",
        "    print(error)",
    ]


def _gradient(request: Request, loss: str) -> list[str]:
    return [
        *_few(request),
        "x = x.clone().requires_grad_()",
        f"loss = sp.losses.{loss}(model(x), sp.Untargeted(y)).sum()",
        "(grad,) = torch.autograd.grad(loss, x)",
    ]


def _zero_gradient(loss: str) -> Callable[[Request, Evaluation], list[str]]:
    def script(request: Request, evaluation: Evaluation) -> list[str]:
        del evaluation
        return [
            *_gradient(request, loss),
            'print((grad.flatten(1) == 0).all(1).sum().item(), "of", len(x), "gradients are zero in every pixel")',
        ]

    return script


def _misleading(request: Request, evaluation: Evaluation) -> list[str]:
    del evaluation
    low, high = request.threat.bounds
    return [
        *_gradient(request, "margin"),
        f"step = 0.005 * ({high!r} - {low!r}) * grad.sign()",
        f"up, down = (x + step).clamp({low!r}, {high!r}), (x - step).clamp({low!r}, {high!r})",
        "with torch.no_grad():",
        "    rise = sp.losses.margin(model(up), sp.Untargeted(y)) - sp.losses.margin(model(down), sp.Untargeted(y))",
        "    promised = (grad * (up - down)).flatten(1).sum(1)",
        'print("measured by promised change:", (rise / promised).nanmedian().item(), "(an honest gradient: about 1)")',
    ]


def _curve(request: Request, evaluation: Evaluation) -> list[str]:
    del evaluation
    threat = request.threat
    budget = f"norm={threat.norm!r}, eps=[{threat.eps!r}], bounds={threat.bounds}"
    budget += "" if getattr(threat, "mask", None) is None else ", mask=mask"
    budget += "" if request.targets is None else ", targets=targets"
    return [
        'for attacks in (["fgsm"], None):',
        f"    options = dict({budget}, seed={request.seed})",
        "    print(sp.robustness_curve(model, images, labels, attacks=attacks, **options).accuracy)",
    ]


def _pixels(request: Request, evaluation: Evaluation) -> list[str]:
    del evaluation
    return [f"print(images[:{4 * FEW}].min(), images[:{4 * FEW}].max(), {request.threat.bounds})"]


def _labels(request: Request, evaluation: Evaluation) -> list[str]:
    del request, evaluation
    return ["print(len(labels), labels.unique(return_counts=True))"]


def _chance(request: Request, evaluation: Evaluation) -> list[str]:
    del evaluation
    return [
        *_few(request, 4 * FEW),
        "with torch.no_grad():",
        '    print("right:", (model(x).argmax(1) == y).float().mean().item())',
        'print("the commonest class:", (y.bincount().max() / len(y)).item())',
    ]


def _looks(request: Request, evaluation: Evaluation) -> list[str]:
    del evaluation
    return [
        f"for finding in sp.auditing.first_look(model, images, labels, {request.threat.bounds}).findings:",
        '    print(finding.code + ":", finding.evidence)',
    ]


def _paired(weak: type[Attack]) -> Callable[[Request, Evaluation], list[str]]:
    def script(request: Request, evaluation: Evaluation) -> list[str]:
        weaker = [attack for attack in request.used(evaluation) if isinstance(attack, weak)]
        stronger = [a for a in request.used(evaluation) if a.access == "gradients" and not isinstance(a, FGSM)]
        return [
            f"for attacks in ({_specs(weaker)}, {_specs(stronger)}):",
            f"    print(attacks, {_evaluate(request, 'attacks')}.attack_success_rate)",
        ]

    return script


def _unbounded(request: Request, evaluation: Evaluation) -> list[str]:
    box = _threat(whole_box(request.threat, request.images[0:1][0].numel()))
    return _on_rows(request, survivors_of(request, evaluation), WHOLE_BOX_ATTACKS, box)


def _gradient_free(request: Request, evaluation: Evaluation) -> list[str]:
    search = [a for a in request.used(evaluation) if a.access != "gradients" and not isinstance(a, RandomNoise)]
    fallen = [r.index for r in evaluation.records if r.broken_by in {str(attack) for attack in search}]
    return _on_rows(request, fallen or survivors_of(request, evaluation), search or (GRADIENT_FREE,))


def _proof(request: Request, evaluation: Evaluation) -> list[str]:
    del evaluation
    return [
        'proof = sp.certify(model, images, labels, threat, method="crown-ibp")',
        f"attacked = {_evaluate(request, _specs(request.attacks[:4]))}",
        "both = [r.index for r in attacked.records if r.broken_by and proof.certified[r.index]]",
        'print("proved:", int(proof.certified.sum()), "broken all the same:", both)',
    ]


def _notes(request: Request, evaluation: Evaluation) -> list[str]:
    return [
        f"evaluation = {_evaluate(request, _specs(request.used(evaluation)))}",
        "for stage in evaluation.stages:",
        "    print(stage.attack, stage.rejected, stage.notes)",
    ]


def _again(request: Request, evaluation: Evaluation) -> list[str]:
    del evaluation
    targets = "" if request.targets is None else ", targets=targets"
    out = "" if request.out is None else f", out={str(request.out)!r}"
    what = f"attacks={_specs(request.attacks)}" if request.named else f"effort={request.effort!r}"
    asked = f"{what}{targets}, seed={request.seed}{out}"
    return [f"print(sp.audit(model, images, labels, threat, {asked}).headline)"]


_SCRIPTS: dict[str, Callable[[Request, Evaluation], list[str]]] = {
    "evasion": _evasion,
    "probability-outputs": _outputs,
    "train-mode": _train_mode,
    "random-outputs": _randomness,
    "batch-dependence": _company,
    "no-gradient": _no_gradient,
    "zero-gradient": _zero_gradient("margin"),
    "vanishing-cross-entropy": _zero_gradient("cross_entropy"),
    "gradient-misleads": _misleading,
    "blocked-gradient": _misleading,
    "stronger-attack-found": _curve,
    "narrow-input-range": _pixels,
    "single-class-data": _labels,
    "at-chance": _chance,
    "wrong-normalisation": _looks,
    "noise-beats-gradient": _paired(RandomNoise),
    "one-step-beats-many": _paired(FGSM),
    "unbounded-survivors": _unbounded,
    "gradient-free-wins": _gradient_free,
    "search-found-more": _again,
    "certificate-contradicted": _proof,
    "nothing-may-change": _again,
    "loss-replaced": _notes,
    "unusable-numbers": _notes,
    "candidates-rejected": _notes,
    "small-sample": _labels,
    "interrupted": _again,
}
_ABOUT_THE_MODEL_AS_IT_IS = (
    "probability-outputs",
    "train-mode",
    "random-outputs",
    "batch-dependence",
    "wrong-normalisation",
)
_ABOUT_ITS_OWN_GRADIENT = (*_ABOUT_THE_MODEL_AS_IT_IS, "no-gradient", "zero-gradient", "gradient-misleads")

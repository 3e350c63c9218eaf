"""Scripts for the findings that ask whether the attacks were strong enough."""

from __future__ import annotations

SCRIPT = list[str]


def doubled(attack: str, part: str, targets: str) -> SCRIPT:
    """The attack, and the attack with more and more steps."""
    return [
        "import dataclasses",
        "",
        f"attack = sp.attacks.parse({attack!r})",
        "for _ in range(3):",
        f"    found = sp.evaluate(model, images{part}, labels{part}, threat, attacks=[attack]{targets})",
        "    print(attack, found.robust_accuracy)",
        "    attack = dataclasses.replace(attack, steps=4 * attack.steps)",
    ]


def surrogate(queries: int, seed: int) -> SCRIPT:
    """A surrogate learns and is attacked; the model's own gradient beside it."""
    return [
        "from sparring.diagnosis.transfer import distilled",
        "",
        f"student = distilled(model, images[:{queries}], queries={queries}, epochs=15, seed={seed})",
        "goal = sp.Untargeted(labels[:64])",
        "for subject in (student, model):",
        "    moved = sp.attacks.MIFGSM(early_stop=False)(subject, images[:64], goal, threat)",
        "    with torch.no_grad():",
        '        print("right:", (model(moved).argmax(1) == labels[:64]).float().mean().item())',
    ]


def in_double(n: int) -> SCRIPT:
    """Gradients of the margin in both kinds of numbers."""
    return [
        "import copy",
        "",
        f"for subject, x in ((model, images[:{n}]), (copy.deepcopy(model).double(), images[:{n}].double())):",
        "    x = x.clone().requires_grad_()",
        f"    loss = sp.losses.margin(subject(x), sp.Untargeted(labels[:{n}])).sum()",
        "    (grad,) = torch.autograd.grad(loss, x)",
        "    print(grad.dtype, grad.flatten(1).abs().amax(1).sort().values[:8])",
    ]


def jumps(n: int, bounds: tuple[float, float]) -> SCRIPT:
    """How far the margin moves under random changes of two sizes."""
    return [
        f"x, goal = images[:{n}], sp.Untargeted(labels[:{n}])",
        "for radius in (0.0005, 0.005):",
        f"    noise = radius * ({bounds[1]!r} - {bounds[0]!r}) * (2 * torch.rand_like(x) - 1)",
        "    with torch.no_grad():",
        f"        moved = sp.losses.margin(model((x + noise).clamp{bounds!r}), goal)",
        "        print(radius, (moved - sp.losses.margin(model(x), goal)).abs().mean().item())",
    ]

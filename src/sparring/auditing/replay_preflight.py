"""Scripts for what preflight finds: they ask the model about a few images."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from sparring.auditing.request import Request
from sparring.evaluation import Evaluation
from sparring.model import device_of

FEW = 64


def few(request: Request, n: int = FEW) -> list[str]:
    """The first images and labels, where the model is and as it answers when it serves."""
    device = device_of(request.model, request.images[0:1])
    there = "" if device.type == "cpu" else f".to({str(device)!r})"
    lines = [f"x, y = images[:{n}]{there}, labels[:{n}]{there}"]
    return [*lines, "model.eval()"] if isinstance(request.model, nn.Module) else lines


def outputs(request: Request, evaluation: Evaluation) -> list[str]:
    """The range and the sums of what the model returns."""
    del evaluation
    return [
        *few(request),
        "with torch.no_grad():",
        "    outputs = model(x)",
        "print(outputs.min(), outputs.max(), outputs.sum(1)[:5])",
    ]


def train_mode(request: Request, evaluation: Evaluation) -> list[str]:
    """The modules in training mode."""
    del request, evaluation
    return ["print([name or 'the model' for name, module in model.named_modules() if module.training][:5])"]


def randomness(request: Request, evaluation: Evaluation) -> list[str]:
    """Two answers to the same images."""
    del evaluation
    return [*few(request), "with torch.no_grad():", "    print((model(x) - model(x)).abs().max())"]


def company(request: Request, evaluation: Evaluation) -> list[str]:
    """Answers in a batch and alone."""
    del evaluation
    alone = "torch.cat([model(x[i : i + 1]) for i in range(len(x))])"
    return [*few(request, 8), "with torch.no_grad():", f"    print((model(x) - {alone}).abs().max())"]


def gradient(request: Request, loss: str) -> list[str]:
    """The gradient of a loss, as `grad`."""
    return [
        *few(request),
        "x = x.clone().requires_grad_()",
        f"loss = sp.losses.{loss}(model(x), sp.Untargeted(y)).sum()",
        "(grad,) = torch.autograd.grad(loss, x)",
    ]


def zero_gradient(loss: str) -> Callable[[Request, Evaluation], list[str]]:
    """How many gradients of this loss are zero."""

    def script(request: Request, evaluation: Evaluation) -> list[str]:
        del evaluation
        return [
            *gradient(request, loss),
            'print((grad.flatten(1) == 0).all(1).sum().item(), "of", len(x), "gradients are zero in every pixel")',
        ]

    return script


def misleading(request: Request, evaluation: Evaluation) -> list[str]:
    """Change of the margin by what its gradient promises."""
    del evaluation
    low, high = request.threat.bounds
    return [
        *gradient(request, "margin"),
        f"step = 0.005 * ({high!r} - {low!r}) * grad.sign()",
        f"up, down = (x + step).clamp({low!r}, {high!r}), (x - step).clamp({low!r}, {high!r})",
        "with torch.no_grad():",
        "    rise = sp.losses.margin(model(up), sp.Untargeted(y)) - sp.losses.margin(model(down), sp.Untargeted(y))",
        "    promised = (grad * (up - down)).flatten(1).sum(1)",
        'print("measured by promised change:", (rise / promised).nanmedian().item(), "(an honest gradient: about 1)")',
    ]


def pixels(request: Request, evaluation: Evaluation) -> list[str]:
    """The range of the pixels beside the bounds."""
    del evaluation
    return [f"print(images[:{4 * FEW}].min(), images[:{4 * FEW}].max(), {request.threat.bounds})"]


def labels(request: Request, evaluation: Evaluation) -> list[str]:
    """How many images there are of each class."""
    del request, evaluation
    return ["print(len(labels), labels.unique(return_counts=True))"]


def chance(request: Request, evaluation: Evaluation) -> list[str]:
    """Clean accuracy beside that of a constant answer."""
    del evaluation
    return [
        *few(request, 4 * FEW),
        "with torch.no_grad():",
        '    print("right:", (model(x).argmax(1) == y).float().mean().item())',
        'print("the commonest class:", (y.bincount().max() / len(y)).item())',
    ]


def looks(request: Request, evaluation: Evaluation) -> list[str]:
    """What preflight finds."""
    del evaluation
    return [
        f"for finding in sp.auditing.first_look(model, images, labels, {request.threat.bounds}).findings:",
        '    print(finding.code + ":", finding.evidence)',
    ]

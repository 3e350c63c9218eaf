"""What a record of a model must not get wrong: every one of these models would be certified as another one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tests.helpers_core import forked_seed, pictures
from torch import Tensor, nn

import sparring as sp
from sparring.certification.graph import trace
from sparring.errors import InputError, UnsupportedError

LABELS = torch.zeros(4, dtype=torch.int64)
THREAT = sp.ThreatModel("linf", 0.01)


class Around(nn.Module):
    """A linear model of what `prepare` makes of the images, and of what `after` makes of its own first answer."""

    def __init__(self, prepare: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        with forked_seed(0):
            self.head = nn.Linear(16, 3)
        self.prepare, self.after = prepare, after

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.prepare(x).flatten(1))
        return out if self.after is None else self.after(out)


def coarse(x: Tensor) -> Tensor:
    return (x * 65535).to(torch.int32).to(x.dtype) / 65535


def floored(x: Tensor) -> Tensor:
    return torch.div(x * 4096, 1.0, rounding_mode="floor") / 4096


def shifted_under(x: Tensor) -> Tensor:
    """The flat view is moved by little, and with it what it is a view of."""
    held = x * 1.0
    held.flatten(1).add_(1e-5)
    return held


def filled_under(x: Tensor) -> Tensor:
    """A constant that a view of it has been written to."""
    held = torch.zeros_like(torch.empty(x.shape))
    held[:, :, 1:].add_(1e-5 * x[:, :, 1:])
    return x + held


def dark(x: Tensor) -> Tensor:
    return x if float(x.numpy().mean()) > 0.1 else 1 - x


def dark_too(x: Tensor) -> Tensor:
    return x if np.asarray(x).mean() > 0.1 else 1 - x


def dark_as_well(x: Tensor) -> Tensor:
    return x if x.mean((1, 2, 3)).tolist()[0] > 0.1 else 1 - x


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (coarse, "to_copy with dtype=torch.int32"),
        (floored, "div with rounding_mode='floor'"),
        (shifted_under, "in place"),
        (filled_under, "in place"),
        (dark, "decides by the values"),
        (dark_too, "decides by the values"),
        (dark_as_well, "decides by the values"),
        (lambda x: x.half().float(), "to_copy with dtype=torch.float16"),
        (lambda x: torch.clamp(x, min=x.mean((1, 2, 3), keepdim=True)), "clamp"),
        (lambda x: nn.functional.softplus(x, 1.0, 0.5), "softplus"),
        (lambda x: x + 1e-4 * torch.rand(1, 1, 4, 4), "draws at random"),
    ],
    ids=lambda x: getattr(x, "__name__", None) if callable(x) else "",
)
def test_what_is_not_what_it_looks_like_is_refused(prepare: Callable[[Tensor], Tensor], message: str) -> None:
    for method in ("ibp", "lipschitz"):
        with pytest.raises(UnsupportedError, match=message):
            sp.certify(Around(prepare).eval(), pictures(4, 1, 4, 4), LABELS, THREAT, method=method)


class Turning(nn.Module):
    """Takes another way every second time, where there are negative pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.inner = 0, Around(lambda x: x)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        out: Tensor = self.inner(x + (self.calls % 2) * x.clamp(max=0.0))
        return out


def test_the_record_is_checked_in_the_box_of_the_images() -> None:
    images = pictures(1, 1, 4, 4)
    assert trace(Turning().eval(), images).layers()
    with pytest.raises(UnsupportedError, match="something else than the model"):
        trace(Turning().eval(), images, bounds=(-1.0, 1.0))


@pytest.mark.parametrize("given", [{"slopes": -1}, {"radius": 2.5}, {"work": -1}, {"batch_size": 0}])
def test_numbers_that_make_no_sense_are_refused(given: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(given))):
        sp.certify(Around(lambda x: x).eval(), pictures(4, 1, 4, 4), LABELS, THREAT, **given)  # type: ignore[arg-type]


def test_labels_that_the_model_does_not_know_are_refused() -> None:
    with pytest.raises(InputError, match=r"0\.\.2"):
        sp.certify(Around(lambda x: x).eval(), pictures(4, 1, 4, 4), LABELS + 3, THREAT)


@pytest.mark.parametrize("other", [{"mask": torch.zeros(1, 4, 4, dtype=torch.bool)}, {"bounds": (0.0, 2.0)}])
def test_a_certificate_for_another_box_or_mask_spares_nothing(other: dict[str, object]) -> None:
    net, images = Around(lambda x: x).eval(), pictures(4, 1, 4, 4)
    proof = sp.certify(net, images, LABELS, sp.ThreatModel("linf", 0.01, **other))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="another box or another mask"):
        sp.evaluate(net, images, LABELS, THREAT, attacks=["fgsm"], certified=proof)


def test_work_in_place_is_read_where_nothing_else_looks_at_it() -> None:
    images, labels = pictures(4, 1, 4, 4), LABELS
    with forked_seed(0):
        places = nn.Sequential(nn.Flatten(), nn.ReLU(inplace=True), nn.Linear(16, 3)).eval()
    plain = nn.Sequential(nn.Flatten(), nn.ReLU(), places[2]).eval()
    images, threat = images - 0.5, sp.ThreatModel("linf", 0.1, (-1, 1))
    before = images.clone()
    found = [sp.certify(net, images, labels, threat) for net in (places, plain)]
    assert torch.equal(images, before)
    assert torch.equal(found[0].lower, found[1].lower)
    assert sp.certify(places, images, labels, threat, method="lipschitz").radius is not None
    assert torch.equal(images, before)


def test_numbers_in_the_code_count_in_full() -> None:
    """0.1 as float32 is another number than 0.1, by more than bounds in float64 allow for."""
    net = Around(lambda x: x * 0.1 + 0.3).double().eval()
    images = pictures(4, 1, 4, 4, dtype=torch.float64)
    asked = net(images)
    layers = trace(net, images).layers()
    seen = images
    for layer in layers[1:]:
        seen = layer.value(seen)
    assert float((seen - asked).detach().abs().max()) < 1e-14

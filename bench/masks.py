"""Models that hide their gradient, and honest ones: small nets on scikit-learn's digits. Only torch, numpy and Pillow.

Every masked model comes with a twin: the same answers, with a gradient led around the mask by whoever knows where it
is. The twin is what a reference attacks; the audit is given the masked model alone.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

CACHE = Path(__file__).resolve().parent / ".cache" / "masks"
EPS = 0.1


def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The first 1,000 to learn from and the other 797 to test on."""
    data = load_digits()
    images = torch.tensor(data.images / 16, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(data.target)
    return (images[:1000], labels[:1000]), (images[1000:], labels[1000:])


class Around(torch.autograd.Function):
    """A function's value with the gradient of another."""

    @staticmethod
    def forward(ctx: Any, exact: Tensor, soft: Tensor) -> Tensor:
        return exact.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, grad


def straight(exact: Tensor, soft: Tensor) -> Tensor:
    """`exact` forward, `soft` backward."""
    out: Tensor = Around.apply(exact.detach(), soft)
    return out


class Net(nn.Module):
    """Two convolutions and two linear layers, with something done in `forward` at the places a mask likes: to the
    image, to every hidden layer, to the logits. No mask is a module of its own.
    """

    def __init__(
        self,
        image: Callable[[Tensor], Tensor] = lambda x: x,
        hidden: Callable[[Tensor], Tensor] = F.relu,
        logits: Callable[[Tensor], Tensor] = lambda z: z,
        channels: int = 1,
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.image, self.hidden, self.logits = image, hidden, logits
        self.first = nn.Conv2d(channels, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.third = nn.Linear(512, 32)
        self.last = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.hidden(self.first(self.image(x)))
        h = self.hidden(self.second(h))
        h = self.hidden(self.third(h.flatten(1)))
        return self.logits(self.last(h))


def steps_up(model: nn.Module, x: Tensor, y: Tensor, steps: int, eps: float) -> Tensor:
    """PGD on the cross-entropy, for training."""
    start = x + eps * (2 * torch.rand_like(x) - 1)
    moved = start.clamp(0, 1)
    for _ in range(steps):
        moved.requires_grad_(True)
        (grad,) = torch.autograd.grad(F.cross_entropy(model(moved), y), moved)
        moved = torch.min(torch.max(moved.detach() + 0.5 * eps * grad.sign(), x - eps), x + eps).clamp(0, 1)
    return moved.detach()


def trained(
    model: Net, data: tuple[Tensor, Tensor], *, robust: bool, epochs: int, seed: int, cool: float = 1.0, name: str = ""
) -> Net:
    """Adam on the cross-entropy of logits / cool; weights are kept under `name`."""
    path = CACHE / f"{name}.pt"
    if name and path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = 3e-3 if epoch < 0.7 * epochs else 5e-4
        for rows in torch.randperm(len(data[0])).split(64):
            x, y = data[0][rows], data[1][rows]
            x = steps_up(model, x, y, 4, EPS) if robust else x
            loss = F.cross_entropy(model(x) / cool, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    if name:
        CACHE.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), path)
    return model.eval()


def like(model: Net, **places: Callable[[Tensor], Tensor]) -> Net:
    """The same weights with something else in some places."""
    given = {"image": model.image, "hidden": model.hidden, "logits": model.logits} | places
    made = Net(**given, channels=model.first.in_channels, classes=model.last.out_features)
    made.load_state_dict(model.state_dict())
    return made.eval()


def jpeg(x: Tensor, quality: int = 60) -> Tensor:
    """Pillow's JPEG, through numpy."""
    coded = []
    for picture in (255 * x.detach().cpu().numpy()).round().clip(0, 255).astype(np.uint8):
        side = np.kron(picture[0], np.ones((2, 2), np.uint8))
        stream = io.BytesIO()
        Image.fromarray(side).save(stream, "JPEG", quality=quality)
        back = np.asarray(Image.open(stream), dtype=np.float32)
        coded.append(back.reshape(8, 2, 8, 2).mean((1, 3))[None] / 255)
    return torch.from_numpy(np.stack(coded)).to(x)


def rounded(levels: int) -> Callable[[Tensor], Tensor]:
    return lambda x: ((levels - 1) * x).round() / (levels - 1)


def winners(share: float) -> Callable[[Tensor], Tensor]:
    """The largest activations pass, all others are 0 (Xiao et al. 2020)."""

    def act(h: Tensor) -> Tensor:
        flat = h.flatten(1)
        floor = flat.topk(max(1, int(share * flat.shape[1])), 1).values[:, -1:]
        return (flat * (flat >= floor)).view_as(h)

    return act


def steep(h: Tensor) -> Tensor:
    return (8 * h + 0.5).clamp(0, 1)


def soft_steep(h: Tensor) -> Tensor:
    return torch.sigmoid(4 * h)


def signs(h: Tensor) -> Tensor:
    return torch.sign(h)


def soft_signs(h: Tensor) -> Tensor:
    return torch.tanh(2 * h)


class Resized(nn.Module):
    """Shifted by a pixel at random, as by random padding (Xie et al. 2018)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        wide = F.pad(x, (1, 1, 1, 1))
        i, j = (int(v) for v in torch.randint(0, 3, (2,)))
        out: Tensor = self.net(wide[:, :, i : i + 8, j : j + 8])
        return out


class OneOf(nn.Module):
    """One of several nets, drawn anew for each call."""

    def __init__(self, *nets: nn.Module) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.nets[int(torch.randint(0, len(self.nets), (1,)))](x)
        return out


class Thermometer(nn.Module):
    """Fifteen thresholds per pixel as channels (Buckman et al. 2018)."""

    def __init__(self, net: nn.Module, soft: bool) -> None:
        super().__init__()
        self.net, self.soft = net, soft
        self.register_buffer("marks", torch.linspace(1 / 16, 15 / 16, 15).view(1, 15, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        hard = (x > self.marks).to(x)
        out: Tensor = self.net(straight(hard, torch.sigmoid(12 * (x - self.marks))) if self.soft else hard)
        return out


@dataclass(frozen=True, eq=False)
class Masked:
    """The model an audit sees; the twin that the reference attacks; findings of which one is right; is it random?"""

    model: nn.Module
    twin: nn.Module
    right: frozenset[str]
    random: bool = False


BLOCKED = frozenset(("zero-gradient", "no-gradient", "gradient-misleads", "blocked-gradient"))
ROUGH = BLOCKED | {"unstable-loss", "gradient-free-wins", "one-step-beats-many", "search-found-more"}
LARGE = frozenset(("vanishing-cross-entropy", "gradient-underflow"))
RANDOM = frozenset(("random-outputs",))


def base(seed: int = 0) -> Net:
    train, _ = digits()
    torch.manual_seed(seed)
    return trained(Net(), train, robust=True, epochs=12, seed=seed, name=f"robust{seed}")


def with_mask_in_training(name: str, hard: Callable[[Tensor], Tensor], soft: Callable[[Tensor], Tensor]) -> Masked:
    """Hidden layers that saturate, trained straight through."""
    train, _ = digits()
    torch.manual_seed(1)
    twin = Net(hidden=lambda h: straight(hard(h), soft(h)))
    twin = trained(twin, train, robust=False, epochs=25, seed=1, name=name)
    return Masked(like(twin, hidden=hard), twin, ROUGH)


def masked() -> dict[str, Callable[[], Masked]]:
    """By name; made when called."""
    train, _ = digits()

    def seen(right: frozenset[str], twin: dict[str, Any] | None = None, random: bool = False, **places: Any) -> Masked:
        net = base()
        return Masked(like(net, **places), like(net, **(twin or places)), right, random)

    def front(change: Callable[[Tensor], Tensor], right: frozenset[str] = BLOCKED) -> Masked:
        return seen(right, {"image": lambda x: straight(change(x), x)}, image=change)

    def distilled(temperature: float) -> Masked:
        torch.manual_seed(2)
        net = trained(Net(), train, robust=False, epochs=40, seed=2, cool=temperature, name=f"distilled{temperature:g}")
        return Masked(net, like(net, logits=lambda z: z / temperature), LARGE)

    def thermometer() -> Masked:
        torch.manual_seed(3)
        twin = Thermometer(Net(channels=15), soft=True)
        path = CACHE / "thermometer.pt"
        if path.exists():
            twin.load_state_dict(torch.load(path, weights_only=True))
        else:
            trained(twin, train, robust=True, epochs=8, seed=3)  # type: ignore[arg-type]
            torch.save(twin.state_dict(), path)
        return Masked(Thermometer(twin.net, soft=False).eval(), twin.eval(), BLOCKED)

    def winners_take_all() -> Masked:
        torch.manual_seed(4)
        net = trained(Net(hidden=winners(0.15)), train, robust=False, epochs=20, seed=4, name="winners")
        return Masked(net, net, ROUGH | {"more-steps-help", "transfer-wins", "noise-beats-gradient"})

    def dropping() -> Masked:
        return seen(RANDOM, random=True, hidden=lambda h: F.dropout(F.relu(h), 0.2, training=True))

    def noisy(size: float) -> Masked:
        return seen(RANDOM, random=True, hidden=lambda h: F.relu(h + size * torch.randn_like(h)))

    def noisy_and_rounded() -> Masked:
        change = rounded(8)

        def draw(x: Tensor) -> Tensor:
            return change(x + 0.05 * torch.randn_like(x))

        def led(x: Tensor) -> Tensor:
            return straight(draw(x), x)

        return seen(RANDOM, {"image": led}, random=True, image=draw)

    return {
        "round-8-functional": lambda: front(rounded(8)),
        "round-16-functional": lambda: front(rounded(16)),
        "round-3-functional": lambda: front(rounded(3)),
        "jpeg-pillow": lambda: front(jpeg),
        "hidden-rounding": lambda: seen(
            BLOCKED,
            {"hidden": lambda h: straight((4 * F.relu(h)).round() / 4, F.relu(h))},
            hidden=lambda h: (4 * F.relu(h)).round() / 4,
        ),
        "steep-hard-sigmoid": lambda: with_mask_in_training("steep", steep, soft_steep),
        "signs": lambda: with_mask_in_training("signs", signs, soft_signs),
        "hardtanh": lambda: with_mask_in_training("hardtanh", lambda h: F.hardtanh(4 * h), lambda h: torch.tanh(4 * h)),
        "dropout": dropping,
        "hidden-noise": lambda: noisy(0.3),
        "noise-and-rounding": noisy_and_rounded,
        "random-shift": lambda: Masked(Resized(base()), Resized(base()), RANDOM, True),
        "one-of-three": lambda: Masked(OneOf(*map(base, range(3))), OneOf(*map(base, range(3))), RANDOM, True),
        "logits-1e4": lambda: seen(LARGE, {"logits": lambda z: z}, logits=lambda z: 1e4 * z),
        "logits-1e-38": lambda: seen(LARGE, {"logits": lambda z: z}, logits=lambda z: 1e-38 * z),
        "distilled-100": lambda: distilled(100.0),
        "softmax-head": lambda: seen(
            frozenset(("probability-outputs",)), {"logits": lambda z: z}, logits=lambda z: z.softmax(1)
        ),
        "saturated-softmax-head": lambda: seen(
            frozenset(("probability-outputs",)), {"logits": lambda z: z}, logits=lambda z: (30 * z).softmax(1)
        ),
        "rounded-logits": lambda: seen(
            BLOCKED, {"logits": lambda z: straight(z.round(), z)}, logits=lambda z: z.round()
        ),
        "label-only": lambda: seen(
            BLOCKED,
            {"logits": lambda z: straight(F.one_hot(z.argmax(1), 10).to(z), z)},
            logits=lambda z: F.one_hot(z.argmax(1), 10).to(z),
        ),
        "winners-take-all": winners_take_all,
        "thermometer": thermometer,
        "shattered": lambda: front(lambda x: x + 0.01 * torch.sin(700 * x), ROUGH),
        "detached": lambda: front(lambda x: x.detach(), BLOCKED),
        "sigmoid-logits": lambda: seen(ROUGH | LARGE, {"logits": lambda z: z}, logits=lambda z: torch.sigmoid(6 * z)),
    }


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "elu": F.elu,
    "softplus": F.softplus,
    "leaky": F.leaky_relu,
}


@dataclass(frozen=True, eq=False)
class Honest:
    """A model and the data and budget it is audited with."""

    model: nn.Module
    images: Tensor
    labels: Tensor
    eps: float


def honest() -> dict[str, Callable[[], Honest]]:
    """By name; made when called."""
    train, test = digits()
    plain = [
        (act, eps, i)
        for i, (act, eps) in enumerate(zip(ACTIVATIONS, (0.02, 0.05, 0.1, 0.2, 0.3, 0.05, 0.1), strict=True))
    ]
    robust = [
        (act, eps, 10 + i)
        for i, (act, eps) in enumerate(zip(ACTIVATIONS, (0.3, 0.1, 0.2, 0.05, 0.1, 0.2, 0.02), strict=True))
    ]

    def made(act: str, eps: float, seed: int, safe: bool) -> Honest:
        torch.manual_seed(seed)
        name = f"{act}{seed}{'-robust' if safe else ''}"
        net = Net(hidden=ACTIVATIONS[act])
        return Honest(trained(net, train, robust=safe, epochs=10 if safe else 15, seed=seed, name=name), *test, eps)

    def three(safe: bool) -> Honest:
        torch.manual_seed(30)
        few = [(x[y < 3], y[y < 3]) for x, y in (train, test)]
        name = f"three{'-robust' if safe else ''}"
        net = trained(Net(classes=3), few[0], robust=safe, epochs=15, seed=30, name=name)
        return Honest(net, *few[1], 0.15)

    def two() -> Honest:
        few = [(x[y < 2], y[y < 2]) for x, y in (train, test)]
        torch.manual_seed(31)
        return Honest(trained(Net(classes=2), few[0], robust=True, epochs=15, seed=31, name="two"), *few[1], 0.3)

    def colour(safe: bool) -> Honest:
        def painted(x: Tensor, y: Tensor, seed: int) -> tuple[Tensor, Tensor]:
            g = torch.Generator().manual_seed(seed)
            tint = 0.4 + 0.6 * torch.rand(len(x), 3, 1, 1, generator=g)
            return (0.1 + 0.9 * x * tint).clamp(0, 1), y

        torch.manual_seed(32)
        sets = [painted(*part, i) for i, part in enumerate((train, test))]
        name = f"colour{'-robust' if safe else ''}"
        net = trained(Net(channels=3), sets[0], robust=safe, epochs=15, seed=32, name=name)
        return Honest(net, *sets[1], 0.05)

    found: dict[str, Callable[[], Honest]] = {}
    for act, eps, seed in plain:
        found[f"{act}, standard, eps {eps}"] = lambda a=act, e=eps, s=seed: made(a, e, s, False)
    for act, eps, seed in robust:
        found[f"{act}, PGD, eps {eps}"] = lambda a=act, e=eps, s=seed: made(a, e, s, True)
    for safe in (False, True):
        kind = "PGD" if safe else "standard"
        found[f"three classes, {kind}, eps 0.15"] = lambda s=safe: three(s)
        found[f"colour, {kind}, eps 0.05"] = lambda s=safe: colour(s)
    found["two classes, PGD, eps 0.3"] = two
    found["log-softmax, PGD, eps 0.1"] = lambda: Honest(like(base(), logits=lambda z: z.log_softmax(1)), *test, 0.1)
    return found

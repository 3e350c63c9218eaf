"""The declared stack: transforms, model, detectors and policy as one value that can be called, saved and attacked."""

from __future__ import annotations

import hashlib
import itertools
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sparring.batching import plan
from sparring.defenses.detectors import Fitted
from sparring.defenses.detectors.evidence import Evidence, pooled, watched
from sparring.defenses.policy import Policy
from sparring.defenses.sight import Sight
from sparring.defenses.transforms import Transform
from sparring.defenses.transforms.base import checked
from sparring.errors import InputError
from sparring.model import Model, frozen_eval, logits_of, model_digest
from sparring.rng import Streams, base_seed, digests

AT_ONCE = 128
"""Images, counted with all their views, that go to the model in one call."""
TOGETHER = 2**21
"""Numbers in one call of the model, above which one call per version of the images is as fast or faster."""


@dataclass(frozen=True, eq=False)
class Decision:
    """What a stack says of N images: `labels` (N,), `flagged` (N,), the detectors' `scores` (N, D), the `logits` (N, K)
    behind the labels, and the `action` taken with flagged ones. `withheld` (N,): those that get no answer.
    """

    labels: Tensor
    flagged: Tensor
    scores: Tensor
    logits: Tensor
    action: str

    @property
    def withheld(self) -> Tensor:
        """Bool (N,): sent to review or rejected."""
        return self.flagged & (self.action in ("review", "reject"))

    @property
    def actions(self) -> list[str]:
        """What happens to each image: "accept" or the policy's action."""
        return [self.action if flag else "accept" for flag in self.flagged.tolist()]


@dataclass(frozen=True, eq=False)
class Stack:
    """Transforms in front of `model`, fitted detectors beside it, and a policy for what they flag.

    The model answers for the transformed image; detectors look at the image as it came, with the bare model, as they
    were fitted. Raises `InputError` for a detector that is not fitted, or fitted to another model.
    """

    model: Model
    transforms: Sequence[Transform] = ()
    detectors: Sequence[Fitted] = ()
    policy: Policy = field(default_factory=Policy)

    def __post_init__(self) -> None:
        for name, kind in (("transforms", Transform), ("detectors", Fitted)):
            given = getattr(self, name)
            wrong = [entry for entry in given if not isinstance(entry, kind)] if _is_list(given) else [given]
            if wrong:
                how = "fitted detectors, such as FeatureSqueezing().fit(model, images)"
                wanted = how if kind is Fitted else "transforms, such as JPEG(quality=75)"
                raise InputError(f"{name} must be a list of {wanted}; got {wrong[0]!r}")
            object.__setattr__(self, name, tuple(given))
        if self.detectors and self.policy.quorum > len(self.detectors):
            raise InputError(f"a quorum of {self.policy.quorum} is more than the {len(self.detectors)} detectors")
        shapes = {fitted.shape: "" for fitted in self.detectors}
        for shape in shapes:
            shapes[shape] = model_digest(self.model, shape)
        for fitted in self.detectors:
            fitted.check_model(self.model, shapes[fitted.shape])

    @property
    def random(self) -> bool:
        """Whether the same image may be answered differently each time."""
        before = any(transform.random for transform in (*self.transforms, *self.policy.purifier))
        return before or any(fitted.detector.random for fitted in self.detectors)

    @property
    def width(self) -> int:
        """How many versions of an image the model is asked about."""
        views = sum(fitted.detector.asks for fitted in self.detectors)
        return (
            bool(self.transforms) + (not self.transforms or bool(self.detectors)) + views + bool(self.policy.purifier)
        )

    def __call__(
        self, images: Tensor, *, generator: torch.Generator | None = None, batch_size: int | None = None
    ) -> Decision:
        """Decide on images (N, C, H, W) in [0, 1].

        A stack with randomness draws afresh on every call, unless `generator` gives its seed. Raises `InputError` for
        unusable images, `ModelError` where the model breaks its contract.
        """
        checked(images)
        images = images.detach()
        with frozen_eval(self.model):
            seed = base_seed(generator) if generator is not None else secrets.randbits(62)
            keys = digests(images) if self.random else [b""] * len(images)
            size = batch_size or max(1, self._batch(images) // self.width)
            with torch.no_grad():
                sights = [
                    self.look(images[a : a + size], Streams(seed, "stack", keys[a : a + size]))
                    for a in range(0, len(images), size)
                ]
        logits = torch.cat([sight.served for sight in sights])
        flagged, scores = torch.cat([s.flagged for s in sights]), torch.cat([s.scores for s in sights])
        return Decision(logits.argmax(1), flagged, scores, logits, self.policy.flagged)

    def look(self, images: Tensor, streams: Streams, gradient: str = "declared") -> Sight:
        """Everything the stack computes of one batch, in one call of the model, differentiable where gradients are on:
        through each transform's "declared" gradient, or with "identity" past all of them. Internal to attacks.
        """
        asked = [images] if self.detectors or not self.transforms else []
        if self.transforms:
            asked.insert(0, _through(self.transforms, images, streams, gradient))
        for fitted in self.detectors:
            asked += fitted.detector.views(images, fitted.state, streams, gradient)
        if self.policy.purifier:
            asked.append(_through(self.policy.purifier, images, streams, gradient))
        layers = tuple(dict.fromkeys(name for fitted in self.detectors for name in fitted.detector.layers()))
        first = 1 if self.transforms else 0  # where the bare images stand
        answers, features = self._asked(asked, first, layers)
        purified = answers.pop() if self.policy.purifier else None
        if not self.detectors:
            nothing = images.new_zeros((len(images), 0))
            alarm = images.new_full((len(images),), -torch.inf)
            return Sight(answers[0], nothing, nothing, alarm, purified, None, self.policy.withholds)
        evidence = Evidence(images, answers[first], tuple(answers[first + 1 :]), features)
        scores = self._scores(evidence)
        excess = self._excess(scores)
        alarm = excess.sort(1, descending=True).values[:, self.policy.quorum - 1]
        return Sight(answers[0], scores, excess, alarm, purified, evidence, self.policy.withholds, self.policy.quorum)

    def as_model(self, seed: int = 0) -> nn.Module:
        """The stack's classifier, transforms and model, as a model that any attack, `sp.evaluate` and `sp.audit` take:
        images to logits with the declared gradients. What detectors and policy do is `sp.evaluate_stack`'s to judge.
        """
        return StackModel(self, seed)

    def digest(self, shape: Sequence[int]) -> str:
        """Identity of the whole stack for images of `shape` (C, H, W), hex."""
        found = hashlib.sha256(model_digest(self.model, shape).encode())
        found.update(f"{'|'.join(map(str, self.transforms))}|{self.policy}".encode())
        for fitted in self.detectors:
            found.update(f"{fitted.detector.described()}|{fitted.threshold!r}|{fitted.model}".encode())
            for name, tensor in sorted(fitted.state.items()):
                found.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()

    def __str__(self) -> str:
        """The layers, outside first."""
        layers = [*map(str, self.transforms), "model", *(fitted.name for fitted in self.detectors)]
        return " > ".join(layers) + (f" > {self.policy.flagged}" if self.detectors else "")

    def _batch(self, images: Tensor) -> int:
        """Images per call of the model; few are one batch, without asking the model what it likes."""
        asked = len(images) * self.width
        return asked if asked <= AT_ONCE else plan(self.model, images).batch_size

    def _asked(
        self, asked: list[Tensor], first: int, layers: tuple[str, ...]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The logits of every version, and the features of version number `first`: in one call of the model, or in one
        per version where all of them together are too large to be worth it.
        """
        n = len(asked[0])
        if len(asked) * asked[0].numel() <= TOGETHER:
            with watched(self.model, layers) as seen:
                logits = logits_of(self.model, torch.cat(asked) if len(asked) > 1 else asked[0])
            features = {name: pooled(seen[name][first * n : (first + 1) * n]) for name in layers}
            return list(torch.split(logits, n)), features
        answers, features = [], {}
        for i, version in enumerate(asked):
            with watched(self.model, layers if i == first else ()) as seen:
                answers.append(logits_of(self.model, version))
            features |= {name: pooled(values) for name, values in seen.items()}
        return answers, features

    def _scores(self, evidence: Evidence) -> Tensor:
        ends = list(itertools.accumulate((fitted.detector.asks for fitted in self.detectors), initial=0))
        columns = []
        for fitted, a, b in zip(self.detectors, ends, ends[1:], strict=False):
            own = Evidence(
                evidence.images,
                evidence.logits,
                evidence.views[a:b],
                {name: evidence.features[name] for name in fitted.detector.layers()},
            )
            columns.append(fitted.detector.score(own, fitted.state))
        return torch.stack(columns, 1)

    def _excess(self, scores: Tensor) -> Tensor:
        exact = scores.double()
        thresholds = exact.new_tensor([fitted.threshold for fitted in self.detectors])
        spreads = exact.new_tensor([fitted.spread for fitted in self.detectors])
        return ((exact - thresholds) / spreads).nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)


class StackModel(nn.Module):
    """What `Stack.as_model` returns."""

    is_stack: ClassVar[bool] = True  # so that rooms below this one can tell

    def __init__(self, stack: Stack, seed: int = 0) -> None:
        super().__init__()
        self.inner, self.stack, self.seed = stack.model, stack, seed
        self.training = bool(getattr(stack.model, "training", False))  # it has no mode of its own
        self._calls = itertools.count()

    def extra_repr(self) -> str:
        """What the digest of the model must tell apart."""
        return f"transforms={'+'.join(map(str, self.stack.transforms))}"

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K); a stack with randomness draws afresh on every call."""
        keys = [str(row).encode() for row in range(len(images))] if self.stack.random else [b""] * len(images)
        streams = Streams(self.seed, f"call {next(self._calls)}", keys)
        return logits_of(self.stack.model, _through(self.stack.transforms, images, streams, "declared"))


def _through(transforms: Sequence[Transform], images: Tensor, streams: Streams, gradient: str) -> Tensor:
    for transform in transforms:
        images = transform.passed(images, transform.draw(images, streams), gradient)
    return images


def _is_list(given: Any) -> bool:
    return isinstance(given, (list, tuple))

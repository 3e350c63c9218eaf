"""What an evaluation is about, checked: model, data in fixed chunks, goal, threat, seed, and the key of a run."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sparring.attacks import ATTACKS
from sparring.attacks.base import Attack, check_goal
from sparring.batching import Plan, plan
from sparring.certification.certificate import Certificate, identity
from sparring.errors import InputError
from sparring.evaluation.ranks import Ranks
from sparring.goal import Goal, Targeted, Untargeted
from sparring.identity import code_of, settings_of
from sparring.model import Model, device_of, model_digest
from sparring.problem import Problem, check_images, named
from sparring.rng import Streams, digest, digests
from sparring.threat import Threat


class Images(Protocol):
    """A tensor (N, C, H, W), or anything that gives such a tensor for a slice, read when needed."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> Tensor: ...


class Subset:
    """Some images of a set, in the given order, read when needed."""

    def __init__(self, images: Images, indices: Sequence[int]) -> None:
        self._images, self._indices = images, list(indices)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, part: slice, /) -> Tensor:
        return torch.cat([self._images[i : i + 1] for i in self._indices[part]])


@dataclass(frozen=True, eq=False)
class Task:
    """What an evaluation is about, checked."""

    model: Model
    images: Images
    labels: Tensor
    targets: Tensor | None
    threat: Threat
    seed: int
    plan: Plan
    chunk_size: int
    device: torch.device
    ranks: Ranks

    def chunks(self) -> list[slice]:
        """Fixed, index-aligned pieces; their size depends on the image shape alone."""
        n = len(self.labels)
        return [slice(a, min(a + self.chunk_size, n)) for a in range(0, n, self.chunk_size)]

    def shares(self, chosen: Tensor | None = None) -> list[Tensor]:
        """The images `chosen` (bool, (N,); all where None) by index, in the pieces that are worked on one by one and
        dealt to processes. They are the chunks; where these are too few to go round evenly, each is cut in two (or in
        as many as there are processes) unless that makes batches too small. So one process and two do the same work.
        """
        chunks, cuts = self.chunks(), max(2, self.ranks.size)
        least = max(16, self.plan.batch_size // 4)
        pieces = []
        for part in chunks:
            rows = torch.arange(part.start, part.stop)
            rows = rows if chosen is None else rows[chosen[part]]
            cut = min(cuts, len(rows) // least) if len(chunks) < 4 * cuts else 1
            pieces += [piece for piece in rows.tensor_split(max(1, cut)) if len(piece)]
        return pieces

    def done(self, shares: list[Tensor], share: int) -> int:
        """How many images are settled once `share` is, up to the end of its chunk where it is the last one there."""
        if share + 1 == len(shares):
            return len(self.labels)
        following = int(shares[share + 1][0])
        begun = following - following % self.chunk_size
        return begun if begun > int(shares[share][-1]) else following

    def span(self, rows: Tensor) -> slice:
        """The smallest slice that holds the images `rows` (rising)."""
        return slice(int(rows[0]), int(rows[-1]) + 1)

    def read(self, part: slice) -> Tensor:
        """The images of a chunk, checked, on the model's device."""
        images = self.images[part]
        check_images(images, self.threat.bounds)
        if len(images) != part.stop - part.start:
            raise InputError(f"images {part.start}:{part.stop} came back as {len(images)} images")
        return images.detach().to(self.device)

    def goal(self, part: slice | Tensor) -> Goal:
        """The attacker's goal for these images."""
        if self.targets is not None:
            return Targeted(self.targets[part]).to(self.device)
        return Untargeted(self.labels[part]).to(self.device)

    def problem(self, images: Tensor, goal: Goal, purpose: str) -> Problem:
        """The images as an attack is given them, with random streams of their own for `purpose`."""
        streams = Streams(self.seed, purpose, digests(images))
        return Problem.build(self.model, images, goal, self.threat, streams, self.plan)

    def chunk_digest(self, images: Tensor, part: slice) -> str:
        """Identity of a chunk: its images, labels and targets."""
        pieces = [digest(images), self.labels[part].numpy().tobytes()]
        if self.targets is not None:
            pieces.append(self.targets[part].numpy().tobytes())
        return hashlib.sha256(b"|".join(pieces)).hexdigest()


def checked_task(
    model: Model,
    images: Images,
    labels: Tensor,
    targets: Tensor | None,
    threat: Threat,
    seed: int,
    batch_size: int | None,
) -> Task:
    """Build a task, or raise `InputError` that says what cannot be used."""
    if not callable(model):
        raise InputError(f"model must be callable, images to logits, got {type(model).__name__}")
    if not isinstance(threat, Threat):
        raise InputError(f'threat must be a ThreatModel, such as ThreatModel("linf", "8/255"), got {threat!r}')
    if isinstance(images, Tensor):
        check_images(images, threat.bounds)
    elif not (hasattr(images, "__len__") and hasattr(images, "__getitem__")) or isinstance(images[0:1], np.ndarray):
        raise InputError(f"images must be a torch tensor or slice into tensors, got {named(images)}")
    if len(images) == 0:
        raise InputError("the data set is empty: there is nothing to evaluate")
    labels = Untargeted(labels).labels.cpu()
    check_goal(Untargeted(labels), len(images))
    if targets is not None:
        check_goal(Targeted(targets), len(images))
        targets = targets.long().cpu()
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise InputError(f"seed must be a whole number from 0 to 2**63 - 1, got {seed!r}")
    first = images[0:2]
    check_images(first, threat.bounds)
    first = first.detach()
    device = device_of(model, first)
    how = plan(model, first.to(device), batch_size)
    return Task(
        model,
        images,
        labels,
        targets,
        threat,
        seed,
        how,
        chunk_size(first[0].numel()),
        device,
        Ranks(),
    )


def checked_proof(proof: Certificate | None, task: Task) -> Tensor | None:
    """The mask (N,) of the images that `proof` certifies, or `InputError` where it speaks of something else."""
    if proof is None:
        return None
    if not isinstance(proof, Certificate):
        raise InputError(f"certified must be a Certificate, as sp.certify returns it, got {type(proof).__name__}")
    threat = task.threat
    if proof.method == "smoothing":
        raise InputError("a smoothing certificate is about the smoothed model, not about the one that is attacked")
    if proof.norm != threat.norm or proof.eps < threat.eps or task.targets is not None:
        said = f"{proof.norm} eps {proof.eps:g}, any wrong class"
        asked = f"{threat.norm} eps {threat.eps_text}{'' if task.targets is None else ', chosen classes'}"
        raise InputError(f"the certificate is for {said}, the evaluation for {asked}")
    if proof.region is not None and {**proof.region, "eps": threat.eps} != threat.key():
        raise InputError("the certificate is for another box or another mask than the evaluation")
    if not torch.equal(proof.labels.cpu(), task.labels):
        raise InputError("the certificate has other labels than the evaluation: certify the same images")
    if proof.model and proof.model != identity(task.model, task.images[0:1].to(task.device), threat.bounds):
        raise InputError("the certificate is about another model: certify the one that is evaluated")
    return proof.certified.cpu()


def chunk_size(numbers_per_image: int) -> int:
    """Images per chunk: a power of two between 16 and 1024 that keeps a chunk near 16 MiB of float32."""
    fitting = max(16, min(1024, 2**22 // max(1, numbers_per_image)))
    return int(2 ** (fitting.bit_length() - 1))


def run_key(
    task: Task, recipe: Sequence[str], attacks: Sequence[Attack], proved: Tensor | None = None
) -> dict[str, Any]:
    """Everything that must be the same for an old record to be used; labels and images go by chunk digests."""
    from sparring import __version__

    threat, first = task.threat, task.images[0:1]
    return {
        "sparring": __version__,
        "source": _own_source(),
        "dtype": str(first.dtype),
        "model": _model_key(task),
        "attacks": list(recipe),
        "code": [identity for attack in attacks for identity in _code(attack)],
        **threat.key(),
        "goal": "untargeted" if task.targets is None else "targeted",
        "seed": task.seed,
        "chunk": task.chunk_size,
        "labels": digest(task.labels).hex(),
        "targets": None if task.targets is None else digest(task.targets).hex(),
        **({} if proved is None else {"certified": digest(proved).hex()}),
    }


@functools.cache
def _own_source() -> str:
    """Identity of the code that makes records: a change of an attack or an effort makes others."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    rooms = [root, *(root / room for room in ("attacks", "defenses", "evaluation", "perturbations"))]
    for file in sorted({path for room in rooms for path in room.glob("*.py" if room == root else "**/*.py")}):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _code(attack: Attack) -> list[str]:
    """Identity of code that sparring's version does not cover: a user's own attack class and functions among the
    parameters.
    """
    values = [getattr(attack, f.name) for f in dataclasses.fields(attack)]
    wrapped = [identity for value in values if isinstance(value, Attack) for identity in _code(value)]
    parts = [value for value in values if callable(value) and not isinstance(value, Attack)]
    if type(attack) not in ATTACKS.values():
        parts.append(type(attack))
    return [*wrapped, *map(code_of, parts)]


def _model_key(task: Task) -> list[str]:
    """Identity of the model: weights and answers, its code, and every value in it that calling it does not change."""
    first = task.images[0:1]
    before = settings_of(task.model)
    digest = model_digest(task.model, tuple(first.shape[1:]), task.threat.bounds, first)
    held = sorted(before.items() & settings_of(task.model).items())
    return [digest, code_of(task.model), hashlib.sha256(repr(held).encode()).hexdigest()]

"""The true robust accuracy between two numbers: what is proved, and what attacks left."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.certification.certificate import Certificate
from sparring.errors import InputError
from sparring.estimate import Estimate, proportion

SHARE = 0.05
"""Of the certified images, those that are attacked all the same: a proof is code, too."""


@dataclass(frozen=True, eq=False)
class Bracket:
    """Per image "certified", "broken" or "unknown"; `contradicted`: certified images that an attack broke, which
    must not be: an error of ours. subject: what the certificate is about.
    """

    status: tuple[str, ...]
    contradicted: tuple[int, ...]
    subject: str

    @property
    def lower(self) -> Estimate:
        """Certified accuracy: the robust accuracy is at least this."""
        return proportion(self.status.count("certified"), len(self.status))

    @property
    def upper(self) -> Estimate:
        """What attacks left: the robust accuracy is at most this."""
        return proportion(len(self.status) - self.status.count("broken"), len(self.status))

    @property
    def unknown(self) -> Estimate:
        """The share between."""
        return proportion(self.status.count("unknown"), len(self.status))


def bracket(certificate: Certificate, broken: Sequence[bool]) -> Bracket:
    """Certificate and attacks together; `broken`: images that are wrong as they are, or that an attack broke.

    An image that is both certified and broken counts as broken.
    """
    if len(broken) != len(certificate.labels):
        raise InputError(f"one verdict per image: {len(certificate.labels)} images, {len(broken)} verdicts")
    if certificate.method == "smoothing":
        raise InputError("a smoothing certificate is about the smoothed model: it is no lower bound for the model")
    proved = certificate.certified.tolist()
    status = ["broken" if b else "certified" if c else "unknown" for c, b in zip(proved, broken, strict=True)]
    both = tuple(i for i, (c, b) in enumerate(zip(proved, broken, strict=True)) if c and b)
    return Bracket(tuple(status), both, certificate.subject)


def always_attacked(certified: Tensor, digests: Sequence[str], seed: int, share: float = SHARE) -> Tensor:
    """Bool (N,): a random `share` (at least one) of the certified images, by their contents and the seed alone."""
    rows = certified.nonzero().flatten().tolist()

    def key(row: int) -> tuple[bytes, int]:
        return hashlib.blake2b(f"{seed}|certified|{digests[row]}".encode()).digest(), row

    chosen = torch.zeros_like(certified)
    chosen[sorted(rows, key=key)[: max(1, round(share * len(rows)))]] = True
    return chosen & certified

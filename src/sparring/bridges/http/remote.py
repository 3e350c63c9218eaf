"""A declared endpoint as a model: scores or labels of pictures, asked once each."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sparring.black_box import BlackBox
from sparring.bridges.http import wire
from sparring.bridges.http.client import Client
from sparring.bridges.http.declaration import Declaration, load_endpoint
from sparring.bridges.http.ledger import Ledger
from sparring.errors import ConfigError, EndpointError, InputError, QueriesSpentError

PROBES = 8
"""Pictures that are asked, at most, to recognise the model and its batch size before an attack begins."""


class Remote(nn.Module):
    """Images (N, C, H, W) in [0, 1] to scores (N, K), or to labels (N,), from a declared endpoint.

    A picture is sent once: its answer is kept by the digest of what is sent. Nothing is sent beyond `max_queries`.
    """

    attacked_only = True

    def __init__(self, declared: Declaration, sleep: Callable[[float], None] = time.sleep) -> None:
        super().__init__()
        if isinstance(declared.body, dict) and not wire.holds_a_picture(declared.body):
            raise ConfigError(f"body holds no picture: use one of {', '.join(wire.PLACEHOLDERS)}")
        if declared.batch > 1 and declared.protocol != "v2" and not wire.repeats(declared.body):
            raise ConfigError('several pictures per request need a list in the body: instances = ["{array}"]')
        self.declared = declared
        self.ledger = Ledger(declared.cache or Path("answers.sqlite"), declared.identity, declared.account)
        self._width: int | None = None
        self.client = Client(declared, self._reserve, sleep=sleep)

    def extra_repr(self) -> str:
        """What the digest of the model must tell apart."""
        return f"{self.declared.host}, {self.declared.identity[:16]}"

    def forward(self, images: Tensor) -> Tensor:
        """Scores (N, K); probabilities become logits; labels are int64 (N,)."""
        if images.is_floating_point() and bool(((images < -1e-6) | (images > 1 + 1e-6)).any()):
            raise InputError("an endpoint takes images in [0, 1]: mean, std and other bounds are the server's business")
        sent = wire.as_sent(self.declared, images.detach().cpu().to(torch.float32).numpy())
        pictures = [hashlib.sha256(f"{one.shape}{one.dtype}".encode() + one.tobytes()).hexdigest() for one in sent]
        known = self.ledger.known(pictures)
        missing = [i for i, name in enumerate(pictures) if name not in known and name not in pictures[:i]]
        while missing:
            share = self._allowed(len(missing))
            now, missing = missing[:share], missing[share:]
            answers = self._asked(sent[now])
            self._check_width(answers.shape[1], known)
            self.ledger.keep([pictures[i] for i in now], answers)
            known |= {pictures[i]: answer for i, answer in zip(now, answers, strict=True)}
        found = torch.from_numpy(np.stack([known[name] for name in pictures])).to(images.device)
        if self.declared.answers == "label":
            return found[:, 0].long()
        if self.declared.answers == "probabilities":
            found = found.clamp_min(1e-30).log()
        return found.to(images.dtype)

    def _allowed(self, wanted: int) -> int:
        left = self.declared.max_queries - self.ledger.totals()[0]
        return max(1, min(wanted, self.declared.batch, left))

    def _asked(self, pictures: np.ndarray) -> np.ndarray:
        reply = self.client.ask(wire.request(self.declared, pictures), len(pictures))
        return wire.scores(self.declared, reply, len(pictures))

    def _check_width(self, width: int, known: Mapping[str, np.ndarray]) -> None:
        """As many classes as declared, or as every answer before."""
        before = {len(answer) for answer in known.values()} | ({self._width} if self._width else set())
        if self.declared.answers != "label":
            before |= {self.declared.count} if self.declared.count else set()
        if before - {width}:
            raise EndpointError(
                f"{self.declared.host} answered {width} scores, where {min(before - {width})} were declared or came "
                "before; not kept. If the model behind it was replaced, name another cache"
            )
        self._width = width

    def _reserve(self, pictures: int) -> None:
        if not self.ledger.reserve(pictures, self.declared.max_queries):
            spent, kept = self.ledger.totals()
            raise QueriesSpentError(
                f"the cap of {self.declared.max_queries} pictures for {self.declared.host} is reached ({spent} sent, "
                f"{kept} answers kept in {self.ledger.path}): raise max_queries, and the same command goes on from "
                "there without asking twice"
            )

    def remarks(self) -> tuple[str, ...]:
        """What whoever runs an attack must know."""
        spent, kept = self.ledger.totals()
        declared = self.declared
        allowed = "this machine" if declared.is_local else f"permission: {declared.permission}"
        cost = f", {declared.price * (declared.max_queries - spent):.2f} at most" if declared.price else ""
        return (
            f"pictures go to {declared.host} ({allowed}); attack only what you own or are allowed to test",
            f"at most {declared.max_queries - spent} more pictures are sent{cost}; {spent} sent so far, {kept} answers "
            "kept",
        )


def open_endpoint(path: str | Path) -> BlackBox:
    """The model that an `endpoint.toml` declares, as a black box that shows scores or labels. Sends nothing yet."""
    declared = load_endpoint(path)
    access = "labels" if declared.answers == "label" else "logits"
    return BlackBox(Remote(declared), access, declared.count)

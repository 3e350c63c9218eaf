"""The guard as an attacker sees it: an address that answers with a label and a confidence, or refuses."""

from __future__ import annotations

import ipaddress
import json
import socket
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx
import torch
from torch import Tensor

from sparring.errors import ConfigError, InputError
from sparring.guard.v2 import HEADER

SURE = 30.0
"""Logit that stands for certainty."""


class SpentError(Exception):
    """The session has had its queries or its time."""


@dataclass(eq=False)
class Remote:
    """A model (N, C, H, W) -> (N, K) made of a guard's answers about one image of class `truth`.

    success: the query, counted from 1, whose answer was wrong, within the budget `eps` of `image`, and not withheld.
    Every distinct image is one query; the same one asked twice in a row is answered from memory.
    """

    client: httpx.Client
    url: str
    image: Tensor
    truth: int
    classes: int
    eps: float
    most: int
    until: float
    queries: int = 0
    refused: int = 0
    success: int | None = None
    began: float = field(default_factory=time.time)
    _last: tuple[Tensor, Tensor] | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """What the answers say of the logits. Raises `SpentError` at the end."""
        return torch.cat([self.ask(image[None]) for image in images])

    def ask(self, image: Tensor) -> Tensor:
        """One query; (1, K)."""
        if self._last is not None and torch.equal(self._last[0], image):
            return self._last[1]
        if self.queries >= self.most or time.monotonic() > self.until:
            raise SpentError
        self.queries += 1
        label, confidence = self._sent(image)
        if label is None:
            logits = self._known(self.truth, 1.0)
        else:
            inside = float((image - self.image).abs().max()) <= self.eps + 0.5 / 255
            if label != self.truth and inside and self.success is None:
                self.success = self.queries
            logits = self._known(label, confidence)
        self._last = (image.clone(), logits)
        return logits

    def _sent(self, image: Tensor) -> tuple[int | None, float]:
        """Label and confidence; None for an image that got no answer."""
        answer = sent(self.client, self.url, image)
        if answer.status_code != 200:
            self.refused += 1
            return None, 0.0
        outputs = {output["name"]: output["data"][0] for output in answer.json()["outputs"]}
        if outputs["abstained"]:
            self.refused += 1
            return None, 0.0
        return int(outputs["label"]), float(outputs["confidence"])

    def _known(self, label: int, confidence: float) -> Tensor:
        share = min(max(confidence, 1e-6), 1 - 1e-6)
        logits = torch.full((1, self.classes), float(torch.log(torch.tensor((1 - share) / (self.classes - 1)))))
        logits[0, label] = float(torch.log(torch.tensor(share)))
        return logits.clamp(-SURE, 0)


def sent(client: httpx.Client, url: str, images: Tensor) -> httpx.Response:
    """The answer to images (N, C, H, W), sent as a binary tensor."""
    raw = images.contiguous().numpy().astype("<f4").tobytes()
    given = {"name": "images", "datatype": "FP32", "shape": list(images.shape)}
    text = json.dumps({"inputs": [given | {"parameters": {"binary_data_size": len(raw)}}]}).encode()
    return client.post(url, content=text + raw, headers={HEADER: str(len(text))})


def connection(url: str, number: int, token: str = "") -> httpx.Client:
    """A client of its own for session `number`: on loopback from an address of its own, so that the guard can tell the
    sessions apart.
    """
    own = is_loopback(url) and not token
    third, fourth = divmod(number, 250)
    address = f"127.{1 + third // 250}.{third % 250}.{fourth + 2}" if own else None
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.Client(transport=httpx.HTTPTransport(local_address=address), headers=headers, timeout=30)


def is_loopback(url: str) -> bool:
    """Does every address of the host lie on this machine?"""
    host = urlsplit(url).hostname or ""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except OSError:
        raise InputError(f"the host {host!r} is not known") from None
    return bool(found) and all(ipaddress.ip_address(str(address)).is_loopback for address in found)


def check_target(url: str, confirmed: str) -> None:
    """Raise `ConfigError` unless the target is this machine, or a host that was named twice."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"--url must begin with http:// or https:// and name a host, got {url!r}")
    if not is_loopback(url) and confirmed != parts.hostname:
        raise ConfigError(
            f"{parts.hostname} is not this machine: attack only a guard of your own, and confirm it by "
            f"--i-own {parts.hostname}"
        )

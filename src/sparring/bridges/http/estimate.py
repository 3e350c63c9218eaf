"""A dry run: the request that would be sent, and what attacks would cost at most."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparring.bridges.http import wire
from sparring.bridges.http.remote import PROBES, Remote
from sparring.errors import UnsupportedError

LONGEST = 60


def grey(size: int, channels: int) -> Tensor:
    """A grey picture (1, C, size, size), where any picture will do."""
    return torch.full((1, channels, size, size), 0.5)


def shown(remote: Remote, images: Tensor) -> list[str]:
    """The request for the first of `images` (N, C, H, W), long values cut, secrets as they were declared."""
    declared = remote.declared
    request = wire.request(declared, wire.as_sent(declared, images[:1].numpy()))
    lines = [f"POST {declared.url if declared.protocol == 'json' else request.url}"]
    lines += [f"{name}: {value}" for name, value in declared.headers.items()]
    kinds = {"json": "application/json", "files": "multipart/form-data", "content": "image/png"}
    kind = next(key for key in kinds if key in request.options)
    lines.append(f"content-type: {kinds[kind]}")
    lines.append(_cut(json.dumps(_short(request.options[kind]))) if kind == "json" else f"({kinds[kind]}, one PNG)")
    return lines


def bill(remote: Remote, attacks: Sequence[Any], n: int) -> list[str]:
    """Pictures, money and time that `attacks` on `n` images take at most. Raises `UnsupportedError` where one needs
    gradients, which no endpoint shows.
    """
    declared, (spent, _) = remote.declared, remote.ledger.totals()
    per_image = 1  # the image itself
    for attack in attacks:
        if attack.access == "gradients":
            raise UnsupportedError(
                f"{attack} needs gradients, which an endpoint does not show: try square, hopskipjump"
            )
        queries = getattr(attack, "queries", None)
        if queries is None:
            return [f"{attack} does not say how many queries it takes; the cap holds in any case"]
        per_image += queries + 1
    total = n * per_image + PROBES
    left = declared.max_queries - spent
    lines = [f"at most {total} pictures: {n} images, {per_image} each, and {PROBES} to recognise the model"]
    if declared.price:
        lines.append(f"that is {declared.price * total:.2f} at {declared.price:g} each")
    if declared.per_second:
        lines.append(f"and {total / declared.per_second / 60:.1f} minutes at {declared.per_second:g} a second")
    enough = f"enough of the cap is left: {left}" if total <= left else f"the cap ends it earlier: {left} are left"
    return [*lines, enough]


def _short(found: Any) -> Any:
    if isinstance(found, dict):
        return {key: _short(value) for key, value in found.items()}
    if isinstance(found, list):
        return [_short(value) for value in found[:3]] + (["..."] if len(found) > 3 else [])
    return found[:20] + "..." if isinstance(found, str) and len(found) > LONGEST else found


def _cut(text: str) -> str:
    return text if len(text) <= 400 else text[:400] + " ..."

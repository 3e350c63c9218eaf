"""A request's body: no longer than allowed, no slower than allowed, and its JSON no deeper than needed."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from typing import Any

from starlette.requests import ClientDisconnect, Request

from sparring.guard.refusal import RefusedError

DEPTH = 16
"""Of nested JSON; ours needs five."""


async def body_of(request: Request, most: int, seconds: float) -> bytes:
    """The whole body. Raises `RefusedError`: 413 where it is longer than `most` bytes, 408 where it takes too long, 415
    for a compressed one, whose size could not be told in advance.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RefusedError(415, "encoding", "compressed bodies are not read here")
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said) > most:
        raise RefusedError(413, "body", f"the body is longer than {most} bytes")
    parts, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise RefusedError(413, "body", f"the body is longer than {most} bytes")
                parts.append(part)
    except TimeoutError:
        raise RefusedError(408, "slow", f"the upload took longer than {seconds:g} seconds") from None
    except ClientDisconnect:
        raise RefusedError(400, "left", "the client left") from None
    return parts[0] if len(parts) == 1 else b"".join(parts)


def json_of(data: bytes) -> Any:
    """A JSON document in UTF-8. Raises `RefusedError` for anything else, and for NaN, Infinity and deep nesting."""
    if _depth(data) > DEPTH:
        raise RefusedError(400, "json", f"the JSON is nested deeper than {DEPTH} levels")
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise RefusedError(400, "json", "the body is not JSON in UTF-8, or holds numbers that JSON does not") from None


def from_base64(text: object) -> bytes:
    """The bytes that `text` stands for, with or without a data URL's head. Raises `RefusedError`."""
    if not isinstance(text, str):
        raise RefusedError(422, "base64", "a picture must be base64 text")
    _, _, behind = text.partition(";base64,")
    try:
        return base64.b64decode(behind or text, validate=True)
    except (binascii.Error, ValueError):
        raise RefusedError(400, "base64", "a picture is not valid base64") from None


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _depth(data: bytes) -> int:
    """Of brackets outside texts, found by taking texts out; long texts (pictures) cost one search each."""
    deepest = depth = at = 0
    if data.count(b"[") + data.count(b"{") <= DEPTH:
        return 0
    while at < len(data):
        byte = data[at]
        if byte == 0x22:
            at = _text_end(data, at)
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
            if deepest > DEPTH:
                return deepest
        elif byte in b"]}":
            depth -= 1
        at += 1
    return deepest


def _text_end(data: bytes, start: int) -> int:
    """Where the text that begins at `start` has its closing quotation mark."""
    at = data.find(b'"', start + 1)
    while at > 0:
        slashes = 0
        while data[at - 1 - slashes] == 0x5C:
            slashes += 1
        if slashes % 2 == 0:
            return at
        at = data.find(b'"', at + 1)
    return len(data)

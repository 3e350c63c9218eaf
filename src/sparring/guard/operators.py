"""Who may see the operators' pages and the metrics: who has an operator's token; without tokens, this machine."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import time

from starlette.requests import Request

from sparring.guard.refusal import RefusedError
from sparring.guard.service import Guard

COOKIE = "sparring_guard"
HOURS = 12


def check_operator(guard: Guard, request: Request) -> str:
    """The operator's name. Raises `RefusedError` 401 or 403."""
    if guard.door.tokens is None:
        if not _is_local(request):
            raise RefusedError(403, "operator", "operators' pages are for this machine only while there are no tokens")
        return "local"
    name = _from_cookie(guard.key, request.cookies.get(COOKIE, ""))
    if name is None and guard.door.caller(request).role == "operator":
        name = "token"
    if name is None:
        raise RefusedError(401, "operator", "an operator's token is needed")
    return name


def cookie(key: bytes, name: str, now: float) -> str:
    """A session that this guard, and those with the same key, will know again."""
    said = f"{name}|{int(now) + HOURS * 3600}"
    return f"{said}|{_mac(key, said)}"


def same_origin(request: Request) -> bool:
    """Does a form come from our own page? Browsers say where a post comes from."""
    origin = request.headers.get("origin")
    if origin is None:
        return request.headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")
    return origin.partition("://")[2] == request.headers.get("host")


def _from_cookie(key: bytes, text: str) -> str | None:
    said, _, mac = text.rpartition("|")
    if not said or not hmac.compare_digest(mac.encode(), _mac(key, said).encode()):
        return None
    name, _, until = said.rpartition("|")
    return name if until.isdecimal() and int(until) > time.time() else None


def _mac(key: bytes, said: str) -> str:
    return hmac.new(key, b"session " + said.encode(), hashlib.sha256).hexdigest()


def _is_local(request: Request) -> bool:
    try:
        return request.client is not None and ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False

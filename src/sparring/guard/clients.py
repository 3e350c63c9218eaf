"""Who is asking: bearer tokens, addresses behind listed proxies, keyed hashes of both, and how fast they may ask."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request

from sparring.errors import ConfigError
from sparring.files import write_whole
from sparring.guard.refusal import RefusedError

ROLES = ("client", "operator")
KNOWN = 10_000
"""Clients whose pace is remembered."""


@dataclass(frozen=True)
class Caller:
    """A keyed hash that stands for the client, and what its token allows."""

    client: str
    role: str


@dataclass(frozen=True)
class Tokens:
    """Names, roles and SHA-256 digests of bearer tokens; the tokens themselves (256 random bits) are kept nowhere."""

    entries: tuple[tuple[str, str, bytes], ...]

    @classmethod
    def read(cls, path: Path) -> Tokens:
        """From lines `name role digest`. Raises `ConfigError` naming the line."""
        entries = []
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"the tokens in {path} cannot be read: {error}; `sparring guard token` writes them"
            ) from None
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            try:
                name, role, digest = line.split()
                entry = (name, role, bytes.fromhex(digest))
            except ValueError:
                entry = ("", "", b"")
            if entry[1] not in ROLES or len(entry[2]) != 32:
                raise ConfigError(f"{path}, line {number}: expected a name, client or operator, and a SHA-256 digest")
            entries.append(entry)
        return cls(tuple(entries))

    def find(self, token: str) -> tuple[str, str] | None:
        """Name and role; every entry is compared, each in constant time."""
        digest, found = hashlib.sha256(token.encode("utf-8", errors="replace")).digest(), None
        for name, role, known in self.entries:
            if hmac.compare_digest(digest, known):
                found = (name, role)
        return found


def new_token(path: Path, name: str, role: str) -> str:
    """A fresh token, its digest added to the file; this is the only time it is seen."""
    if role not in ROLES or not name.strip() or len(name.split()) != 1:
        raise ConfigError(f"a token has a name without spaces and a role, {' or '.join(ROLES)}; got {name!r}, {role!r}")
    if path.exists() and any(name == known for known, _, _ in Tokens.read(path).entries):
        raise ConfigError(f"{path} has a token named {name!r} already: remove its line first, or choose another name")
    token = secrets.token_urlsafe(32)
    before = path.read_bytes() if path.exists() else b"# name role sha256-of-token\n"
    line = f"{name} {role} {hashlib.sha256(token.encode()).hexdigest()}\n"
    write_whole(path, before + line.encode())
    return token


class Door:
    """Tells callers apart. `key` makes the hashes useless to whoever finds them without it; `rate` 0 is no limit."""

    def __init__(self, key: bytes, tokens: Tokens | None, proxies: Sequence[str], rate: float) -> None:
        self.key, self.tokens, self.rate = key, tokens, rate
        try:
            self.proxies = [ipaddress.ip_network(proxy, strict=False) for proxy in proxies]
        except ValueError as error:
            raise ConfigError(f"[guard] proxies: {error}") from None
        self._pace: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._hashes: dict[str, str] = {}

    def caller(self, request: Request) -> Caller:
        """Who sends this request. Raises `RefusedError` 401 without a valid token where tokens are asked for."""
        if self.tokens is None:
            return Caller(self.hashed(self.address(request)), "client")
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        found = self.tokens.find(token.strip()) if kind.lower() == "bearer" else None
        if found is None:
            raise RefusedError(401, "token", "a valid bearer token is needed")
        return Caller(self.hashed(f"token:{found[0]}"), found[1])

    def hashed(self, identity: str) -> str:
        """Keyed hash of a token's name or an address, 32 hex digits."""
        found = self._hashes.get(identity)
        if found is None:
            found = hashlib.blake2b(identity.encode(), key=self.key, digest_size=16).hexdigest()
            if len(self._hashes) >= KNOWN:
                self._hashes.clear()
            self._hashes[identity] = found
        return found

    def address(self, request: Request) -> str:
        """The peer's address; behind a listed proxy, the last forwarded one that is no proxy. IPv6 counts by /64."""
        peer = request.client.host if request.client is not None else ""
        if not self.proxies or not self._is_proxy(peer):
            return _network(peer)
        forwarded = ",".join(request.headers.getlist("x-forwarded-for"))
        for hop in reversed([part.strip() for part in forwarded.split(",") if part.strip()]):
            if not _is_address(hop):
                break
            if not self._is_proxy(hop):
                return _network(hop)
            peer = hop
        return _network(peer)

    def check_pace(self, client: str, images: int, rate: float | None = None) -> None:
        """Raise `RefusedError` 429 for a client that sends faster than `rate` images a second, bursts of ten seconds
        aside.
        """
        rate = self.rate if rate is None else rate
        if rate <= 0:
            return
        now, burst = time.monotonic(), max(10 * rate, 1.0)
        level, then = self._pace.pop(client, (0.0, now))
        level = max(0.0, level - (now - then) * rate)
        over = level > 0 and level + images > burst
        self._pace[client] = (level if over else level + images, now)
        if len(self._pace) > KNOWN:
            self._pace.popitem(last=False)
        if over:
            raise RefusedError(429, "rate", "too many images: slow down", retry_after=max(1, int(images / rate)))

    def _is_proxy(self, host: str) -> bool:
        return _is_address(host) and any(ipaddress.ip_address(host) in network for network in self.proxies)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _network(host: str) -> str:
    if ":" in host and _is_address(host):
        return str(ipaddress.ip_network((host.partition("%")[0], 64), strict=False))
    return host

"""`endpoint.toml`: where a classifier answers, what is sent, where the answer stands, and what may be spent."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sparring.errors import ConfigError, DataError, unknown
from sparring.loading.paths import existing_file, user_path
from sparring.loading.reason import reason

_VARIABLE = re.compile(r"\$\{(\w+)\}")
_SECRET = re.compile(r"auth|key|token|secret|cookie|password|credential", re.IGNORECASE)
MOST_BYTES = 2**20


class Declaration(BaseModel):
    """An endpoint as declared. Frozen, closed to unknown keys; secrets stand in it as `${NAME}` only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    url: str = Field(description="where pictures are sent; of protocol v2 the server alone, http://host:port")
    max_queries: Annotated[int, Field(strict=True, ge=1)] = Field(
        description="hard cap on pictures sent, retries included, over all runs that share the cache"
    )
    permission: str = Field("", description="who allowed these requests; only this machine needs none")
    protocol: Literal["json", "v2"] = Field("json", description='"json", or "v2", the Open Inference Protocol')
    body: dict[str, Any] | str | None = Field(
        None, description='what is sent: { image = "{png}" } as JSON, or "{png}" alone for the bare file'
    )
    upload: str | None = Field(None, description="instead of body: the form field of a file upload (multipart)")
    response: str = Field("", description='where the answer stands: "scores", "result.0.label", "predictions.*"')
    answers: Literal["scores", "probabilities", "label"] = Field("scores", description="what comes back")
    classes: int | None = Field(None, ge=2, description="how many classes; needed where only labels come back")
    names: tuple[str, ...] | None = Field(None, min_length=2, description="class names, where answers use them")
    headers: dict[str, str] = Field({}, description='extra headers: { Authorization = "Bearer ${API_TOKEN}" }')
    batch: int = Field(1, ge=1, description="pictures per request")
    per_second: float | None = Field(None, gt=0, description="at most so many pictures a second")
    price: float = Field(0.0, ge=0, description="what one picture costs, in your currency")
    timeout: float = Field(30.0, gt=0, description="seconds to wait for an answer")
    retries: int = Field(5, ge=0, description="how often a picture is sent again after 429, 5xx or silence")
    cache: Path | None = Field(None, description="file of answers and of the bill; default: beside this file")
    model: str | None = Field(None, description="protocol v2: the name of the model")
    version: str | None = Field(None, description="protocol v2: its version, if not the server's choice")
    tensor: str = Field("input", description="protocol v2: the name of the input tensor")
    datatype: Literal["FP32", "UINT8"] = Field("FP32", description="protocol v2: FP32 in [0, 1] or UINT8 to 255")
    layout: Literal["NCHW", "NHWC"] = Field("NCHW", description="protocol v2: the order of the axes")

    @model_validator(mode="after")
    def _consistent(self) -> Declaration:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f'url must begin with "http://" or "https://" and name a host, got {self.url!r}')
        _ = parts.port  # raises where it is none
        if parts.username is not None or parts.password is not None:
            raise ValueError('url holds a name or password: use headers = { Authorization = "Basic ${NAME}" }')
        if parts.query and _SECRET.search(parts.query) and not _VARIABLE.search(parts.query):
            raise ValueError("url holds a secret in plain text: write ${NAME} and set the environment variable NAME")
        for name, value in self.headers.items():
            if _SECRET.search(name) and not _VARIABLE.search(value):
                raise ValueError(
                    f"header {name} looks like a secret: write ${{NAME}} and set the environment variable NAME"
                )
        if not self.is_local:
            if not self.permission.strip():
                raise ValueError(
                    f"permission is missing: attack only what you own or may test; say who allowed it for {self.host}, "
                    'permission = "our own staging server, ticket 12"'
                )
            if parts.scheme == "http" and self._variables():
                raise ValueError(f"secrets would travel in plain text to {self.host}: use https")
        self._check_form()
        return self

    def _check_form(self) -> None:
        if self.protocol == "v2":
            if self.model is None:
                raise ValueError("protocol v2 needs the name of the model: model = ...")
            if self.body is not None or self.upload is not None:
                raise ValueError("protocol v2 builds its own requests: leave body and upload out")
        elif (self.body is None) == (self.upload is None):
            raise ValueError('say what is sent: body = { image = "{png}" }, or upload = "file" for a form')
        if self.answers == "label" and self.classes is None and self.names is None:
            raise ValueError("answers are labels: say how many classes there are, classes or names")
        if self.classes is not None and self.names is not None and self.classes != len(self.names):
            raise ValueError(f"classes={self.classes}, but names holds {len(self.names)}")

    @property
    def host(self) -> str:
        """Host and port, the only place that requests go to."""
        return urlsplit(self.url).netloc

    @property
    def is_local(self) -> bool:
        """Does the endpoint run on this machine?"""
        name = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return name == "localhost"

    @property
    def count(self) -> int | None:
        """How many classes, if declared."""
        return self.classes if self.names is None else len(self.names)

    @property
    def identity(self) -> str:
        """Which model this is, hex: all that decides an answer, and no secret."""
        free = ("max_queries", "permission", "headers", "batch", "per_second", "price", "timeout", "retries", "cache")
        kept = [key for key in type(self).model_fields if key not in (*free, "classes")]
        return hashlib.sha256(repr([(key, getattr(self, key)) for key in kept]).encode()).hexdigest()

    @property
    def account(self) -> str:
        """Whose bill it is, hex: the model that answers, however it is asked and its answers are read."""
        return hashlib.sha256(repr((self.url, self.protocol, self.model, self.version)).encode()).hexdigest()

    def filled(self, text: str) -> str:
        """`text` with `${NAME}` replaced from the environment. Raises `ConfigError` for a variable that is not set."""

        def value(found: re.Match[str]) -> str:
            if found[1] not in os.environ:
                raise ConfigError(f"the endpoint {self.host} needs the environment variable {found[1]}: it is not set")
            return os.environ[found[1]]

        return _VARIABLE.sub(value, text)

    def _variables(self) -> list[str]:
        return _VARIABLE.findall(" ".join([self.url, *self.headers.values()]))


def load_endpoint(path: str | Path) -> Declaration:
    """Read and check an `endpoint.toml`. Raises `ConfigError` naming the file, the key and what is allowed."""
    file = user_path(path)
    try:
        existing_file(file, "the endpoint")
        if file.stat().st_size > MOST_BYTES:
            raise ConfigError(f"the endpoint {file} is {file.stat().st_size} bytes; a few lines are expected")
        declared = Declaration.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except DataError as error:
        raise ConfigError(str(error)) from error
    except ValidationError as error:
        raise ConfigError(f"{file}: {_explained(error)}") from None
    except (ValueError, OSError, RecursionError) as error:
        raise ConfigError(f"{file} is not valid TOML: {reason(error)}") from error
    cache = declared.cache or Path(f"{file.stem}.answers.sqlite")
    return declared.model_copy(update={"cache": file.absolute().parent / user_path(cache)})


def _explained(error: ValidationError) -> str:
    first = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    key = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        return unknown("key", key, list(Declaration.model_fields))
    if not key:
        return first["msg"].removeprefix("Value error, ")
    said = Declaration.model_fields[key].description
    return f"{key} is missing: {said}" if first["type"] == "missing" else f"{key}: {first['msg']} ({said})"

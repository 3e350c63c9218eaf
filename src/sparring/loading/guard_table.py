"""[guard]: how the declared stack is served and watched. Secrets come from the environment, never from the file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from sparring.loading.table import Real, Table, Whole

RESPONSES = ("log", "throttle", "label", "challenge", "block")
"""What may happen to a client that raised an alert, from the mildest to the harshest."""


class GuardTable(Table):
    """[guard]: where it listens, how much it takes, what it keeps, and what it does about an attacker."""

    host: str = Field(default="127.0.0.1", min_length=1, description="address to listen on; loopback unless told")
    port: Whole = Field(default=8765, ge=0, le=65535, description="port; 0 takes a free one")
    served_as: str = Field(
        default="model", pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="the model's name in /v2/models/NAME/infer"
    )
    shape: tuple[Whole, Whole, Whole] | None = Field(
        default=None, description="[channels, height, width] of the model's images; left out: as [data] gives them"
    )
    batch_most: Whole = Field(default=64, ge=1, le=4096, description="images that go to the model together, at most")
    batch_wait: Real = Field(
        default=0.002, ge=0, le=1, description="seconds that a request waits, at most, for others already on their way"
    )
    queue_most: Whole = Field(default=512, ge=1, description="images waiting, at most; beyond it the answer is 429")
    body_most: Whole = Field(default=16 * 2**20, ge=1024, description="bytes of a request's body, at most")
    body_seconds: Real = Field(default=10.0, gt=0, description="seconds that an upload may take")
    images_most: Whole = Field(default=128, ge=1, description="images in one request, at most")
    pixels_most: Whole = Field(
        default=16_000_000, ge=1, description="height x width of a picture, at most, read before it is decoded"
    )
    rate: Real = Field(default=0.0, ge=0, description="images per second that a client may send; 0: no limit")
    tokens: Path | None = Field(
        default=None, description="file of hashed bearer tokens, see `sparring guard token`; left out: nobody is asked"
    )
    proxies: tuple[str, ...] = Field(
        default=(), description='proxies whose X-Forwarded-For is believed: ["10.0.0.1", "192.168.0.0/16"]'
    )
    database: str = Field(
        default="sqlite:///sparring-guard.db",
        description="where events go: sqlite:///file or postgresql://host/name; SPARRING_GUARD_DATABASE goes first",
    )
    events: Literal["open", "closed"] = Field(
        default="open",
        description='"closed": no answer before its event is stored, none at all while the store is down; '
        '"open": answers go on, and events that had to be dropped are counted',
    )
    events_most: Whole = Field(default=20_000, ge=1, description="events waiting for the store, at most")
    keep_days: Real = Field(default=30.0, gt=0, description="days that `sparring guard retain` keeps events")
    quarantine: Path | None = Field(
        default=None, description="folder for pictures that were flagged or answered with little margin; left out: none"
    )
    quarantine_most: Whole = Field(default=256 * 2**20, ge=1, description="bytes in the quarantine, at most")
    quarantine_days: Real = Field(default=7.0, gt=0, description="days that a picture stays in the quarantine")
    profile: Path | None = Field(
        default=None, description="what `sparring guard calibrate` learned of benign traffic; left out: nobody watches"
    )
    response: Literal["log", "throttle", "label", "challenge", "block"] = Field(
        default="log", description='what an alerted client meets: "log", "throttle", "label", "challenge" or "block"'
    )
    response_seconds: Real = Field(default=600.0, gt=0, description="for how long")
    webhook: str | None = Field(
        default=None, description="URL that alerts are posted to; SPARRING_GUARD_WEBHOOK_SECRET signs them"
    )
    cool_down: Real = Field(default=300.0, ge=0, description="seconds before the same alert is sent again")
    quiet_seconds: Real = Field(default=600.0, gt=0, description="seconds without a further sign that resolve an alert")
    runtime: Literal["torch", "onnxruntime"] = Field(
        default="torch", description='what runs the model in this process; "onnxruntime" for an .onnx file'
    )
    upstream: str | None = Field(
        default=None, description="URL of another v2 server that computes the logits, http://host:8000/v2/models/NAME"
    )
    upstream_seconds: Real = Field(default=10.0, gt=0, description="that an answer of the upstream model may take")
    reaudit_hours: Real = Field(
        default=0.0, ge=0, description="audit the served stack again after so many hours; 0: never by itself"
    )
    reaudit_images: Whole = Field(default=200, ge=20, description="images of [data] in a re-audit")
    reaudit_effort: Literal["quick", "standard", "thorough"] = Field(
        default="quick", description="how hard a re-audit tries"
    )
    show_scores: bool = Field(default=False, description="answer with every class's score; for development only")

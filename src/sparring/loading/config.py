"""`sparring.toml`: model, data, threat, audit and what else is done with them, declared once."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from sparring.bridges import form_of
from sparring.budget import NORMS, parse_number
from sparring.errors import ConfigError, DataError, InputError, unknown
from sparring.loading.guard_table import GuardTable
from sparring.loading.harden_table import HardenTable
from sparring.loading.limits import check_bytes
from sparring.loading.names import DATA_SETS, MODELS
from sparring.loading.paths import existing_file, kind_of, user_path
from sparring.loading.reason import reason
from sparring.loading.table import Real, Table, Whole, no_booleans

_T = TypeVar("_T")


def _number_or_fraction(value: Any) -> Any:
    """Keeps "8/255" as it was written; refuses what is no number."""
    if parse_number(value) < 0:
        raise InputError(f"must be >= 0, got {value!r}")
    return value if isinstance(value, str) else float(value)


def _norm(value: str) -> str:
    if value not in NORMS:
        raise InputError(unknown("norm", value, list(NORMS)))
    return value


_PerChannel = Annotated[float | Annotated[tuple[float, ...], Field(min_length=1)], BeforeValidator(no_booleans)]


class ModelTable(Table):
    """[model], the arguments of `load_model`."""

    spec: str = Field(
        min_length=1,
        description='a built-in name, "module:factory" or "file.py:factory"; .keras and .onnx files, endpoint.toml',
    )
    weights: Path | None = Field(default=None, description=".safetensors, or a checkpoint of plain tensors")
    mean: _PerChannel | None = Field(
        default=None, description="subtracted inside the model: one number, or one per channel"
    )
    std: _PerChannel | None = Field(
        default=None, description="divided by inside the model: one number, or one per channel"
    )
    outputs: Literal["logits", "probabilities", "one-logit", "one-probability"] = Field(
        default="logits", description="what the model returns"
    )
    output_index: Whole | str | None = Field(
        default=None, description='which element of a tuple or mapping the model returns: 0, "logits", ...'
    )
    device: str = Field(default="cpu", description='"cpu", "cuda", "cuda:1", ...')


class DataTable(Table):
    """[data], the arguments of `load_data`."""

    source: str = Field(min_length=1, description="digits, mnist5k, fashion-mnist, photos, a folder, .npz or idx file")
    split: Literal["train", "test"] = Field(default="test", description='"test" or "train"')
    n: Whole | None = Field(default=None, ge=1, description="how many images, class-balanced; left out: all")
    size: Whole | tuple[Whole, Whole] | None = Field(default=None, description="resize: a number or [height, width]")
    channels: Whole | None = Field(default=None, ge=1, description="1 grey, 3 colour; left out: as stored")
    labels: Path | None = Field(default=None, description="labels from a file instead: .npy, .txt or idx1")
    classes: tuple[str, ...] | None = Field(default=None, min_length=1, description="class names in the model's order")


class ThreatTable(Table):
    """[threat]: what the attacker may do."""

    norm: Annotated[str, AfterValidator(_norm)] = Field(
        default="linf", description="how a change is measured: " + ", ".join(NORMS)
    )
    eps: Annotated[float | str, BeforeValidator(_number_or_fraction)] = Field(
        description='budget in units of the images, a number or a fraction such as "8/255"'
    )
    bounds: tuple[Real, Real] = Field(default=(0.0, 1.0), description="smallest and largest pixel value")
    mask: Path | None = Field(default=None, description="PNG or .npy; only its nonzero pixels may change")
    target: Annotated[Whole, Field(ge=0)] | Literal["least-likely", "runner-up", "random"] | None = Field(
        default=None,
        description='class to be reached, or "least-likely", "runner-up", "random"; left out: any wrong one',
    )


class AuditTable(Table):
    """[audit]: how hard to try, and what to write down."""

    effort: str = Field(default="standard", description='"quick", "standard", "thorough" or "autoattack"')
    attacks: tuple[str, ...] | None = Field(
        default=None, min_length=1, description='a list, instead of an effort: ["pgd:steps=40", ...]'
    )
    seed: Whole = Field(default=0, ge=0, lt=2**63, description="decides every random draw")
    batch_size: Whole | None = Field(
        default=None, ge=1, description="images per call of the model; left out: chosen for it"
    )
    fail_under: Real | None = Field(
        default=None, ge=0, le=1, description="a share from 0 to 1: exit 1 below this robust accuracy"
    )
    reports: tuple[Path, ...] = Field(default=(), description="files to write: .json, .html, .xml, .sarif")
    records: Path | None = Field(default=None, description="folder that keeps the work, to resume from")


def _layers(value: Any) -> Any:
    """Tables that say their kind; the rest of each is checked where the layer is built."""
    entries = value if isinstance(value, (list, tuple)) else [value]
    if not all(isinstance(entry, dict) and isinstance(entry.get("kind"), str) for entry in entries):
        raise InputError('must be tables with a kind, such as { kind = "jpeg", quality = 75 }')
    return value


class StackTable(Table):
    """[stack]: what stands around the model. Its layers are written [[stack.transforms]] and [[stack.detectors]]."""

    transforms: Annotated[tuple[dict[str, Any], ...], BeforeValidator(_layers)] = Field(
        default=(), description='before the model, in order: { kind = "jpeg", quality = 75 }'
    )
    detectors: Annotated[tuple[dict[str, Any], ...], BeforeValidator(_layers)] = Field(
        default=(), description='beside it: { kind = "feature_squeezing", fpr = 0.05 }'
    )
    flagged: Literal["accept", "purify", "review", "reject"] = Field(
        default="reject", description='what happens to flagged images: "accept", "purify", "review" or "reject"'
    )
    quorum: Whole = Field(default=1, ge=1, description="how many detectors must flag an image")
    purifier: tuple[str, ...] = Field(default=(), description='for "purify", transforms as text: ["jpeg:quality=75"]')
    fitted: Path | None = Field(default=None, description="folder that `sparring fit` writes fitted detectors to")
    calibration: str | None = Field(
        default=None,
        description="images that detectors are fitted on, as [data] source; left out: that one's training split",
    )


class Config(Table):
    """The whole file. Tables may be missing as long as flags bring what is needed."""

    model: ModelTable | None = None
    data: DataTable | None = None
    threat: ThreatTable | None = None
    audit: AuditTable = AuditTable()
    stack: StackTable | None = None
    harden: HardenTable = HardenTable()
    guard: GuardTable | None = None


TABLES: dict[str, type[Table]] = {
    "model": ModelTable,
    "data": DataTable,
    "threat": ThreatTable,
    "audit": AuditTable,
    "stack": StackTable,
    "harden": HardenTable,
    "guard": GuardTable,
}
"""By name. No key stands in two tables, so a key alone names a setting."""

FLAGS: dict[str, tuple[str, str]] = {
    "model": ("model", "spec"),
    "data": ("data", "source"),
    **{key: (table, key) for table, kind in TABLES.items() for key in kind.model_fields},
}
"""What `merge` accepts: every key, and the short forms model and data."""


def load_config(path: str | Path) -> Config:
    """Read and check a `sparring.toml`; relative paths in it start at its folder.

    Raises `ConfigError` naming the file, the table and the key, with the allowed keys, nearest first.
    """
    file = user_path(path)
    try:
        existing_file(file, "the configuration")
        check_bytes(file, "the file", (file.stat().st_size,))
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except DataError as error:
        raise ConfigError(f"{error}; `sparring init` writes one") from error
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} is not valid TOML: {reason(error)}") from error
    return _checked(_resolved(tables, file.absolute().parent), str(file))


def merge(config: Config, **flags: Any) -> Config:
    """`config` with flags laid over it; None means not given. Paths in flags start at the current folder.

    flags: any key of any table (`eps="8/255"`, `n=100`, `seed=3`), `model` for the model's spec, `data` for the
    data's source. Raises `ConfigError` for an unknown flag, a wrong value, or a table whose required key is missing.
    """
    tables = config.model_dump(exclude_none=True, exclude_unset=True)
    for flag, value in flags.items():
        if flag not in FLAGS:
            raise ConfigError(unknown("flag", flag, sorted(FLAGS)))
        if value is not None:
            table, key = FLAGS[flag]
            tables.setdefault(table, {})[key] = value
    return _checked(tables, "the flags")


def present(table: _T | None, name: str) -> _T:
    """The table [name]. Raises `ConfigError` where neither a file nor a flag declared it."""
    if table is None:
        raise ConfigError(f"nothing declares the {name}: add [{name}] to sparring.toml or give it as a flag")
    return table


def _checked(tables: dict[str, Any], where: str) -> Config:
    try:
        return Config.model_validate(tables)
    except ValidationError as error:
        raise ConfigError(_explained(error, where)) from None


def _explained(error: ValidationError, where: str) -> str:
    """The first problem, with unknown keys before the rest: a mistyped key also looks like a missing one."""
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    first = problems[0]
    alternatives = [problem for problem in problems if problem["loc"][:2] == first["loc"][:2]]
    table, *rest = (str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        if not rest:
            return f"{where}: {unknown('table', table, list(TABLES))}"
        return f"{where}, [{table}]: {unknown('key', rest[0], list(TABLES[table].model_fields))}"
    if not rest:
        return f"{where}: {table} must be a table: write [{table}] and its keys below"
    field = TABLES[table].model_fields[rest[0]]
    if first["type"] == "missing":
        return f"{where}, [{table}]: {rest[0]} is missing: {field.description}"
    if len(alternatives) > 1:
        return f"{where}, [{table}] {rest[0]}: got {_short(first['input'])} ({field.description})"
    message = first["msg"].removeprefix("Value error, ") + (
        "" if first["type"] == "value_error" else f", got {_short(first['input'])}"
    )
    return f"{where}, [{table}] {rest[0]}: {message} ({field.description})"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _resolved(tables: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Relative paths, where they are paths at all, joined to the folder of the file."""

    def joined(key: str, value: Any) -> Any:
        if key in ("reports", "attacks") and isinstance(value, list):
            return [joined({"reports": "records", "attacks": "attack"}[key], entry) for entry in value]
        return str(folder / user_path(value)) if is_path(key, value, folder) else value

    return {
        table: {key: joined(key, value) for key, value in keys.items()} if isinstance(keys, dict) else keys
        for table, keys in tables.items()
    }


def is_path(key: str, value: Any, folder: Path) -> bool:
    """Is the value of this key a path? A data source is one if it looks like one or lies in `folder`."""
    if not isinstance(value, (str, Path)):
        return False
    text = str(value)
    if key == "spec":
        opened = form_of(text if text.startswith(("/", "~")) else str(folder / text)) is not None
        return text.rpartition(":")[0].endswith(".py") or (opened and text not in MODELS)
    if key == "attack":
        return text.partition(":")[0].endswith(".py")
    if key in ("source", "calibration", "test"):
        looks = "/" in text or "." in text or text.startswith("~") or kind_of(folder / text) != "missing"
        return bool(text) and text not in DATA_SETS and looks
    return key in ("weights", "labels", "mask", "records", "reports", "fitted", "tokens", "quarantine", "profile")

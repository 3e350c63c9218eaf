"""A `Config` as the few lines of Python that load what it declares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparring.loading.config import Config, present
from sparring.loading.table import Table


def as_script(config: Config, target: int | str | None = None) -> str:
    """Lines that define `model`, `images` and `labels`, and `mask` and `targets` where there are any.

    target: the class to be reached, or the rule that chooses one for every image. Raises `ConfigError` without the
    tables [model] and [data].

    >>> from sparring.loading import merge
    >>> print(as_script(merge(Config(), model="digits-cnn", data="digits", n=100)))
    model = sp.load_model('digits-cnn')
    images, labels = sp.load_data('digits', n=100)
    """
    model, data = present(config.model, "model"), present(config.data, "data")
    lines = [
        f"model = sp.load_model({model.spec!r}{_options(model, 'spec')})",
        f"images, labels = sp.load_data({data.source!r}{_options(data, 'source')})",
    ]
    if config.stack is not None and config.stack.transforms:
        layers = f"sp.defenses.declared.transforms_from({list(config.stack.transforms)!r})"
        lines.insert(1, f"model = sp.defenses.Stack(model, {layers}).as_model()")
    if config.threat is not None and config.threat.mask is not None:
        lines.append(f"mask = sp.loading.load_mask({str(config.threat.mask)!r})")
    if isinstance(target, str):
        bounds = "" if config.threat is None else f", bounds={config.threat.bounds!r}"
        lines.append(
            f"targets = sp.choose_targets(model, images, labels, {target!r}, seed={config.audit.seed}{bounds})"
        )
    elif target is not None:
        lines.append(f"targets = labels.new_full((len(labels),), {target})")
    return "\n".join(lines)


def _options(table: Table, *but: str) -> str:
    """What differs from the defaults, as keyword arguments."""
    changed = table.model_dump(exclude_defaults=True)
    return "".join(f", {key}={_literal(value)}" for key, value in changed.items() if key not in but)


def _literal(value: Any) -> str:
    return repr(str(value)) if isinstance(value, Path) else repr(value)

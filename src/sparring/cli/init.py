"""`sparring init`: a commented `sparring.toml`, after a look at the model and the data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparring.cli import options as o
from sparring.cli import subject
from sparring.errors import ConfigError

if TYPE_CHECKING:
    from sparring.loading import Config


@o.with_subject(but=["config"])
def init(
    flags: o.Flags,
    path: Annotated[
        Path, typer.Option("--out", "-o", help="File to write, --out ci/sparring.toml.")
    ] = o.DEFAULT_CONFIG,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it is there.")] = False,
) -> None:
    """Look at the model and the data and write down model, data and threat as `sparring.toml`.

    Examples:
      sparring init

      sparring init -m mypackage.nets:small --weights net.safetensors -d ./pictures --size 32
    """
    from sparring.files import check_writable
    from sparring.loading import Config, merge

    check_writable(path)
    if path.exists() and not force:
        raise ConfigError(f"{path} is already there: edit it, choose another --out, or overwrite it with --force")
    said = flags.values | {"model": flags.values["model"] or "digits-cnn"}
    config = merge(Config(), **o.completed(Config(), said))
    config, assumed = subject.with_defaults(config)
    _write(config, assumed, path)


def _write(config: Config, assumed: list[str], path: Path) -> None:
    """Look at what `config` declares, write it down, and say what was seen."""
    from rich.console import Console

    from sparring.auditing import first_look
    from sparring.files import write_whole
    from sparring.loading import declared_data, declared_model, merge, render_config

    images = declared_data(config)
    look = first_look(declared_model(config), images.images, images.labels)
    if look.probabilities:
        config = merge(config, outputs="probabilities")
    comments = {"model": look.model, "data": look.data, "threat": "; ".join(a for a in assumed if "threat" in a)}
    text = render_config(config, {key: value for key, value in comments.items() if value}, path.parent)
    write_whole(path, text.encode())
    console = Console(highlight=False)
    console.print(f"{look.model}\n{look.data}", markup=False)
    for finding in look.findings:
        console.print(f"{finding.severity}: {finding.title}: {finding.evidence}\n  do: {finding.remedy}", markup=False)
    console.print(f"wrote {path}; next: sparring audit", markup=False)

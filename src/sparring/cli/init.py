"""`sparring init`: a commented `sparring.toml`, after a look at the model and the data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sparring.cli import options as o
from sparring.cli import subject
from sparring.errors import ConfigError
from sparring.loading import Config, declared_data, declared_model, merge, render_config


def init(
    model: o.ModelFlag = "digits-cnn",
    data: o.DataFlag = None,
    weights: o.WeightsFlag = None,
    mean: o.MeanFlag = None,
    std: o.StdFlag = None,
    outputs: o.OutputsFlag = None,
    size: o.SizeFlag = None,
    n: o.NumberFlag = None,
    eps: o.EpsFlag = None,
    norm: o.NormFlag = None,
    path: Annotated[Path, typer.Option("--out", "-o", help="File to write.")] = o.DEFAULT_CONFIG,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it is there.")] = False,
) -> None:
    """Look at the model and the data and write down model, data and threat as `sparring.toml`.

    Examples:
      sparring init

      sparring init -m mypackage.nets:small --weights net.safetensors -d ./pictures --size 32
    """
    from sparring.auditing import first_look
    from sparring.files import write_whole

    if path.exists() and not force:
        raise ConfigError(f"{path} is already there: edit it, choose another --out, or overwrite it with --force")
    config = merge(
        Config(),
        model=model,
        data=data,
        weights=weights,
        mean=o.numbers(mean, "--mean"),
        std=o.numbers(std, "--std"),
        outputs=outputs,
        size=o.whole_numbers(size, "--size"),
        n=n,
        eps=eps,
        norm=norm,
    )
    config, assumed = subject.with_defaults(config)
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

"""`sparring lab`: the interactive page."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparring.cli import options as o
from sparring.cli import subject
from sparring.errors import ConfigError
from sparring.loading.names import MODELS

if TYPE_CHECKING:
    from sparring.loading import Config

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@o.with_subject(but=["eps", "norm", "seed", "batch_size"])
def lab(
    flags: o.Flags,
    hardened: Annotated[
        Path | None,
        typer.Option(help="Weights of the declared model's hardened version, --hardened hardened.safetensors."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on, --host 0.0.0.0: without a password, for whoever can reach it.")
    ] = LOOPBACK[0],
    port: Annotated[int, typer.Option(help="Port, --port 8080; 0 takes a free one.", min=0, max=65535)] = 7860,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
) -> None:
    """Play with attacks and defenses on a page: a picture, an epsilon slider, and what the model says.

    It listens on this machine alone unless --host says otherwise, and loads and sends nothing elsewhere.

    Examples:
      sparring lab

      sparring lab --model nets.py:small --weights small.safetensors --data ./pictures --hardened hardened.safetensors
    """
    config = flags.declared().config
    if hardened is not None and (config.model is None or config.model.spec in MODELS):
        raise ConfigError("--hardened is for a model of your own: declare it, --model package.module:factory")
    if hardened is not None and not hardened.is_file():
        raise ConfigError(f"--hardened: the file {hardened} does not exist")
    from sparring.lab.play import Play
    from sparring.lab.serve import listening, server
    from sparring.lab.subject import Shelf

    shelf = Shelf(config, None if hardened is None else partial(_hardened, config, hardened))
    if shelf.names[0] not in MODELS:
        subject.told(shelf[shelf.names[0]].model)  # what cannot be loaded is said before the page opens
    with listening(host, port) as (socket, url):
        page = server(Play(shelf), host)
        typer.echo(f"{url}  (Ctrl-C ends it)")
        if host not in LOOPBACK:
            typer.echo("everyone who can reach this address can use the page", err=True)
        if open_page:
            typer.launch(url)
        page.run(sockets=[socket])


def _hardened(config: Config, weights: Path) -> Any:
    from sparring.loading import declared_model, merge

    return declared_model(merge(config, weights=weights))

"""`sparring endpoint`: what a declared endpoint would be sent, and what that costs, before anything is sent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

if TYPE_CHECKING:
    from sparring.bridges.http import Remote


def endpoint(
    file: Annotated[Path, typer.Argument(help="The declaration, such as endpoint.toml.")],
    attack: Annotated[
        list[str] | None,
        typer.Option(
            "--attack", "-a", help="Estimate this attack, --attack square:queries=1000; repeat it for several."
        ),
    ] = None,
    n: Annotated[int, typer.Option("-n", "--n", min=1, help="On how many images, --n 50.")] = 100,
    image: Annotated[
        str | None,
        typer.Option("--image", "-i", help="The picture of the shown request, --image photo.jpg; default: a grey one."),
    ] = None,
    size: Annotated[int, typer.Option(min=1, help="Its side in pixels, --size 224.")] = 32,
    channels: Annotated[
        int, typer.Option(min=1, max=4, help="What the model wants, --channels 1 for grey, --channels 3 for colour.")
    ] = 3,
    send: Annotated[bool, typer.Option("--send", help="Send this one picture and show what comes back.")] = False,
) -> None:
    """Dry run of a model behind HTTP: the request, the host, the cap, the bill; nothing is sent without --send.

    Examples:
      sparring endpoint endpoint.toml --attack square:queries=500 -n 20

      sparring endpoint endpoint.toml --image photo.jpg --size 224 --send
    """
    from sparring.bridges.http import open_endpoint
    from sparring.bridges.http.estimate import bill, shown

    model = open_endpoint(file)
    remote = cast("Remote", model.inner)
    pixels = _picture(image, size, channels)
    lines = [*remote.remarks(), *shown(remote, pixels)]
    if attack:
        from sparring.cli import subject

        lines += bill(remote, subject.attacks(attack), n)
    if send:
        lines.append(f"answer: {[round(value, 4) for value in model(pixels)[0].tolist()]}")
    for line in lines:
        typer.echo(line)


def _picture(spec: str | None, size: int, channels: int) -> Any:
    from sparring.bridges.http.estimate import grey
    from sparring.loading import load_image

    if spec is None:
        return grey(size, channels)
    return load_image(spec, size=size, channels=channels)

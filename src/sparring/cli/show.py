"""What the commands share on the screen: progress, assumptions, a browser."""

from __future__ import annotations

import math
import os
import sys
import webbrowser
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from sparring.evaluation import Progress

    Report = Callable[[Progress], None]


def assumptions(lines: Iterable[str]) -> None:
    """What was filled in because nobody said it, on standard error."""
    for line in lines:
        Console(stderr=True).print(f"assuming {line}", style="dim", highlight=False, markup=False)


def remarks(lines: Iterable[str]) -> None:
    """What is to be known of the model, on standard error."""
    for line in lines:
        Console(stderr=True).print(f"note: {line}", style="dim", highlight=False, markup=False, soft_wrap=True)


@contextmanager
def progress(quiet: bool = False) -> Iterator[Report]:
    """A bar per stage on a terminal, one line per stage elsewhere, both on standard error."""
    if quiet:
        yield lambda _: None
    elif sys.stderr.isatty():
        with bars() as shown:
            yield _on_terminal(shown)
    else:
        yield _in_log()


def bars() -> Bars:
    """Progress bars on standard error; a task has the field `robust`, shown behind its numbers."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[robust]}"))
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)


def _on_terminal(bars: Bars) -> Report:
    known: dict[str, int] = {}

    def update(event: Progress) -> None:
        task = known.get(event.stage)
        if task is None:
            task = known[event.stage] = bars.add_task(event.stage, total=event.total, robust="")
        robust = _robust(event)
        bars.update(task, completed=event.done, total=event.total, robust=robust)  # type: ignore[arg-type]

    return update


def _in_log() -> Report:
    def update(event: Progress) -> None:
        if event.done == event.total:
            sys.stderr.write(f"{event.stage}: {event.total} {event.unit}{_robust(event)}\n")
            sys.stderr.flush()

    return update


def _robust(event: Progress) -> str:
    told = event.unit == "images" and not math.isnan(event.robust)
    return f", robust so far {100 * event.robust:.1f} %" if told else ""


def open_in_browser(path: Path) -> bool:
    """Open a local file where a person is looking: on a desktop, from a terminal, outside CI."""
    has_screen = sys.platform in ("darwin", "win32") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    if os.environ.get("CI") or not sys.stdout.isatty() or not has_screen:
        return False
    return webbrowser.open(path.resolve().as_uri())

"""What the terminal can show: its width, its characters, and how text and bars are put on it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sparring.auditing.report import Interval
from sparring.reports import numbers
from sparring.reports.text import one_line


@dataclass(frozen=True)
class Pen:
    """Writes for one console. Where the encoding is no UTF, only plain characters are used."""

    width: int
    encoding: str
    ascii_only: bool

    @classmethod
    def of(cls, console: Console) -> Pen:
        """The pen for this console."""
        return cls(console.width, console.encoding, console.options.ascii_only)

    @property
    def bar_width(self) -> int:
        """Cells of a bar beside a number; 0 where there is no room."""
        return 0 if self.width < 72 else min(40, self.width - 52)

    @property
    def curve_columns(self) -> int:
        """How many attacks fit side by side in the table of curves."""
        return max(1, (self.width - 18) // 21)

    def clean(self, text: str) -> str:
        """One harmless line that the console's encoding can write."""
        line = one_line(text)
        if self.ascii_only:
            line = line.encode(self.encoding, errors="replace").decode(self.encoding)
        return line

    def line(self, *parts: tuple[str, str]) -> Text:
        """Pieces of text with their styles; long words are folded, never cut."""
        text = Text(overflow="fold")
        for words, style in parts:
            # `clean` strips the blanks that separate the pieces; put them back.
            lead = " " * (len(words) - len(words.lstrip(" ")))
            tail = " " * (len(words) - len(words.rstrip(" "))) if words.strip() else ""
            text.append(lead + self.clean(words) + tail, style=style)
        return text

    def attack(self, name: str, width: int = 34) -> Text:
        """The name of an attack, broken after commas into lines of at most `width` cells where it can be."""
        lines = [""]
        for piece in re.split(r"(?<=,)", self.clean(name)):
            if lines[-1] and len(lines[-1]) + len(piece) > width:
                lines.append("  ")
            lines[-1] += piece
        return Text("\n".join(lines), overflow="fold")

    def title(self, words: str) -> Text:
        """The heading of a block."""
        return self.line((words, "bold underline"))

    def table(self, first: str, at_least: int | None = None) -> Table:
        """An empty table whose first column folds; boxes become plain where they must."""
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim", padding=(0, 1))
        table.add_column(first, overflow="fold", min_width=at_least)
        return table

    def bar(self, interval: Interval, cells: int | None = None) -> Text:
        """0 to 100 %: full up to the value, the interval marked around it."""
        cells = self.bar_width if cells is None else cells
        if interval.value is None:
            return Text("")
        value, low, high = (round(cells * end) for end in (interval.value, interval.low, interval.high))
        full, half, none = ("#", "=", ".") if self.ascii_only else ("█", "▒", "·")
        text = Text(full * min(low, value), style="blue")
        text.append(half * (max(high, value) - min(low, value)), style="blue")
        text.append(none * (cells - max(high, value)), style="dim")
        return text

    def share(self, interval: Interval | None) -> Text:
        """A percentage with a short bar, for tables."""
        if interval is None:
            return Text("-")
        text = Text(f"{numbers.percent(interval.value):>8} ")
        return text.append_text(self.bar(interval, 10))

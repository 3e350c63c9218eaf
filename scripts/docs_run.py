"""Documentation that runs: the code blocks of a Markdown file, executed in order in one namespace and one folder.

A block of python is executed. A block with a title is a file: it is written, not executed. A block of sh may hold
commands of sparring (executed, exit code 0 unless the line ends in `# exits N`) and nothing else. A block of py is
another library's code, run by a test of its own where that library is installed. Where a reader would need something
that is not at hand, `<!-- not executed: reason -->` stands before the block.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^(?P<fence>`{3,})(?P<language>\w*)(?P<rest>[^\n]*)\n(?P<text>.*?)^(?P=fence)[ \t]*$", re.M | re.S)
_SKIPPED = re.compile(r"<!-- not executed: [^\n]+-->\s*\Z")
_TITLE = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins (line, from 1) and ends (offset in the page), and what it is."""

    language: str
    title: str | None
    text: str
    line: int
    end: int
    skipped: bool


def blocks(page: str) -> list[Block]:
    """Every fenced block of a page, in order."""
    found = []
    for match in _BLOCK.finditer(page):
        title = _TITLE.search(match["rest"])
        before = page[: match.start()]
        found.append(
            Block(
                language=match["language"],
                title=title[1] if title else None,
                text=match["text"],
                line=before.count("\n") + 1,
                end=match.end(),
                skipped=_SKIPPED.search(before) is not None,
            )
        )
    return found


def execute(page: str, name: str, folder: Path) -> list[tuple[Block, str]]:
    """Run the blocks of `page` in `folder`; what each printed. Whatever one raises comes through."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    outputs = []
    with _inside(folder):
        for block in blocks(page):
            where = f"{name}, line {block.line}"
            if block.skipped:
                continue
            if block.title is not None:
                Path(block.title).write_text(block.text, encoding="utf-8")
            elif block.language == "python":
                padded = "\n" * block.line + block.text  # so that a traceback names the line of the page
                code = compile(padded, name, "exec")
                outputs.append((block, _printed(lambda code=code: exec(code, namespace))))
            elif block.language == "sh":
                outputs.append((block, "".join(_command(line, where) for line in _commands(block, where))))
    return outputs


def with_outputs(page: str, name: str, folder: Path) -> str:
    """`page` with what its python blocks print, below each."""
    for block, printed in reversed(execute(page, name, folder)):
        if block.language == "python" and printed.strip():
            shown = f'\n\n```text title="prints"\n{printed.rstrip()}\n```'
            page = page[: block.end] + shown + page[block.end :]
    return page


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """In `folder`, whose files can be imported as they could by a script there; forgotten afterwards."""
    known = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - known:
            file = getattr(sys.modules[name], "__file__", None)
            if file is not None and Path(file).is_relative_to(folder):
                del sys.modules[name]


def _printed(call: Callable[[], object]) -> str:
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream):
        call()
    return stream.getvalue()


def _commands(block: Block, where: str) -> Iterator[str]:
    for line in block.text.replace("\\\n", " ").splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not line.startswith("sparring "):
            raise ValueError(f"{where}: {line!r} is no command of sparring; mark the block as not executed")
        yield line


def _command(line: str, where: str) -> str:
    from sparring.cli import main

    expected = re.search(r"# exits (\d+)\s*$", line)
    arguments = shlex.split(line, comments=True)
    before, sys.argv = sys.argv, arguments
    code: object = 0
    stream, errors = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(errors):
            main()
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        sys.argv = before
    if code != (int(expected[1]) if expected else 0):
        raise ValueError(f"{where}: {line!r} exits {code}: {errors.getvalue()}")
    return stream.getvalue()

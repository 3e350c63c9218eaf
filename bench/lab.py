"""How soon the lab answers, measured in Chromium: from a move of epsilon, or another picture, to the changed page.

    .venv/bin/python bench/lab.py                      # prints JSON, and writes it to --out
    .venv/bin/python bench/lab.py --models digits-cnn

A move counts as answered when the text and the pictures are new and loaded. The answer may take four times the model's
bare forward and backward pass on that picture and 0.3 s. The bare pass is timed right before each move, so that both
see the same machine; medians of both are compared. Beside other work the 0.3 s are not: so the CPU seconds that server
and browser spend on an answer are kept as well. The curves come afterwards and are timed on their own.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from sparring.lab.play import Play
from sparring.lab.serve import listening, server
from sparring.lab.subject import Subject

MODELS = ("digits-cnn", "imagenet-lite0")
LEVELS, PICTURES = range(3, 15), range(1, 6)
TIMES, EXTRA = 4, 0.3
"""The bar: so many bare passes, and so many seconds."""
TIMED = """async ([kind, value]) => {
    const answer = document.querySelector('#answer'), text = answer.innerHTML;
    const images = () => [...document.querySelectorAll('#picture img')], seen = () => images().map(i => i.src).join();
    const pictures = seen(), frame = () => new Promise(requestAnimationFrame);
    const range = document.querySelector('#epsilon input[type=range]');
    const start = performance.now();
    if (kind === 'picture') document.querySelectorAll('#examples button')[value].click();
    else { range.value = value; range.dispatchEvent(new Event('input', {bubbles: true})); }
    while (answer.innerHTML === text || seen() === pictures || !images().every(i => i.complete)) await frame();
    return (performance.now() - start) / 1000;
}"""
WHOLE = "#curves .curves[data-whole=true]"


@contextmanager
def serving() -> Iterator[str]:
    """The page, served by a thread of this process; its address."""
    with listening("127.0.0.1", 0) as (socket, url):
        page = server(Play(), "127.0.0.1")
        thread = threading.Thread(target=page.run, kwargs={"sockets": [socket]}, daemon=True)
        thread.start()
        until = time.monotonic() + 60
        while not page.started and time.monotonic() < until:
            time.sleep(0.05)
        yield url
        page.should_exit = True
        thread.join(20)


def bare(subject: Subject, place: int) -> float:
    """Seconds of one forward and backward pass on an example."""
    images = subject.examples[place].open()
    start = time.perf_counter()
    images = images.requires_grad_()
    subject.model(images).logsumexp(1).sum().backward()
    return time.perf_counter() - start


def spent() -> float:
    """CPU seconds so far of this process and all below it: server, driver, browser."""
    parents, seconds = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            parents[int(stat.parent.name)] = int(fields[1])
            seconds[int(stat.parent.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    ours, grown = {os.getpid()}, True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in ours} - ours
        ours, grown = ours | more, bool(more)
    return sum(seconds.get(pid, 0.0) for pid in ours)


def timed(page: Any, kind: str, value: int) -> tuple[float, float]:
    """Seconds until the answer to a move, and CPU seconds spent on it."""
    before = spent()
    return page.evaluate(TIMED, [kind, value]), spent() - before


def measured(browser: Any, url: str, model: str) -> dict[str, Any]:
    """What the page of one model takes."""
    subject = Play().shelf[model]
    first = next(i for i, example in enumerate(subject.examples) if example.name == subject.first)
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(120_000)
    try:
        page.goto(f"{url}?model={model}&level=2")
        page.wait_for_selector(WHOLE)
        page.wait_for_timeout(2000)
        moves, pictures, curves = [], [], []
        for level in LEVELS:
            moves.append((bare(subject, first), *timed(page, "epsilon", level)))
            page.wait_for_timeout(500)
        for place in (place for place in PICTURES if place != first):
            before = page.locator("#curves").inner_html()
            passes = bare(subject, place)
            start = time.perf_counter()
            pictures.append((passes, *timed(page, "picture", place)))
            page.wait_for_function("before => document.querySelector('#curves').innerHTML !== before", arg=before)
            curves.append(time.perf_counter() - start)
            page.wait_for_timeout(1000)
    finally:
        page.close()
    return {"model": model, "epsilon": told(moves), "picture": told(pictures), "curves_s": statistics.median(curves)}


def told(moves: list[tuple[float, float, float]]) -> dict[str, Any]:
    """Bare passes, answers and their CPU seconds as one row."""
    passes, answers, busy = (sorted(column) for column in zip(*moves, strict=True))
    allowed = TIMES * statistics.median(passes) + EXTRA
    return {
        "n": len(moves),
        "bare_s": statistics.median(passes),
        "allowed_s": allowed,
        "answer_s": statistics.median(answers),
        "fastest_s": answers[0],
        "slowest_s": answers[-1],
        "answer_cpu_s": statistics.median(busy),
        "within": sum(answer <= allowed for answer in answers),
    }


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=lambda text: text.split(","), default=list(MODELS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "lab.json")
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with serving() as url, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        rows = [measured(chromium, url, model) for model in options.models]
        version = chromium.version
        chromium.close()
    record = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "chromium": version,
        "load": os.getloadavg()[0],
        "rows": rows,
    }
    text = json.dumps(record, indent=1)
    options.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

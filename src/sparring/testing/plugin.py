"""The pytest plug-in: two options, reports named after their tests, and a summary at the end of the run.

pytest finds it by itself once sparring is installed. It costs nothing in tests that make no use of it.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from sparring.testing.setting import CURRENT, Setting

KEY = "sparring"
"""The name under which a test's verdicts travel: to JUnit XML, and from the workers of pytest-xdist to the summary."""
EFFORTS = ("quick", "standard", "thorough", "autoattack")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--sparring-effort`, `--sparring-reports`."""
    group = parser.getgroup("sparring", "robustness of models")
    group.addoption(
        "--sparring-effort",
        choices=EFFORTS,
        help="instead of the effort that assert_robust names: quick for a pull request, thorough at night",
    )
    group.addoption(
        "--sparring-reports", type=Path, metavar="FOLDER", help="write the report of every assert_robust here"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """While a test runs, `assert_robust` knows its name and the options."""
    setting = Setting(
        name=item.nodeid.rpartition("::")[2] or item.name,
        effort=item.config.getoption("--sparring-effort"),
        folder=item.config.getoption("--sparring-reports"),
    )
    token = CURRENT.set(setting)
    try:
        return (yield)
    finally:
        CURRENT.reset(token)
        item.user_properties.extend((KEY, line) for line in setting.said)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for every model that was audited."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, ())]
    lines = [
        f"{report.nodeid}: {said}"
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, said in report.user_properties
        if name == KEY
    ]
    if lines:
        terminalreporter.section("robust accuracy")
        for line in lines:
            terminalreporter.line(line)

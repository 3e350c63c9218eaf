"""The finding pages, one per entry of `sparring.auditing.FINDINGS`, and their index."""

from __future__ import annotations

from scripts.docs_markdown import facts, page, plain, table

from sparring.auditing import FINDINGS
from sparring.auditing.findings import Kind

UNDERMINES = {
    True: "Yes. While it is unresolved, the robust accuracy can't be believed and the gate of `--fail-under` fails.",
    False: "No. The robust accuracy stands.",
}


def pages() -> dict[str, str]:
    """Path below docs/ to Markdown."""
    made = {"findings/index.md": _index()}
    return made | {f"findings/{code}.md": _page(kind) for code, kind in FINDINGS.items()}


def _index() -> str:
    rows = [
        (f"[{code}]({code}.md)", plain(kind.title), kind.severity, "yes" if kind.undermines else "no")
        for code, kind in FINDINGS.items()
    ]
    return page(
        "Findings",
        "Everything an audit can have to tell. A finding *undermines* the result when it means that the robust "
        "accuracy can't be believed; it is *resolved* when the audit applied the remedy itself.",
        table(("code", "title", "severity", "undermines"), rows),
    )


def _page(kind: Kind) -> str:
    links = [f"- [{plain(r.label)}]({r.url})" if r.url else f"- {plain(r.label)}" for r in kind.references]
    return page(
        plain(kind.title),
        facts(
            [
                ("Code", f"`{kind.code}`"),
                ("Severity", kind.severity),
                ("Undermines the number", UNDERMINES[kind.undermines]),
            ]
        ),
        "## What it means",
        plain(kind.explanation),
        "## What to do",
        plain(kind.remedy),
        "## References" if links else "",
        "\n".join(links),
    )

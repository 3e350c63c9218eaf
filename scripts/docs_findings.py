"""The finding pages, one per entry of `sparring.auditing.FINDINGS`, and their index."""

from __future__ import annotations

from collections.abc import Iterable

from scripts import docs_families
from scripts.docs_entry import neighbours
from scripts.docs_findings_shown import EXAMPLES
from scripts.docs_markdown import facts, fence, page, plain, table

from sparring.auditing import FINDINGS
from sparring.auditing.findings import Kind

UNDERMINES = {
    True: "Yes. While it is unresolved, the robust accuracy can't be believed and the gate of `--fail-under` fails.",
    False: "No. The robust accuracy stands.",
}
_EXAMPLE = """
import sparring as sp

model = sp.load_model("digits-cnn")
images, labels = sp.load_data("digits", n=20)
report = sp.audit(model, images, labels, sp.ThreatModel("linf", 0.1), effort="quick")
for finding in report.findings:
    print(finding.severity, finding.code, "|", finding.evidence)
print(report.findings[0].replay)
""".strip()


def pages() -> dict[str, str]:
    """Path below docs/ to Markdown."""
    made = {"findings/index.md": _index()}
    return made | {f"findings/{code}.md": _page(kind) for code, kind in FINDINGS.items()}


def _index() -> str:
    tables = [(f"## {each.title}", _table(each.names)) for each in docs_families.FINDINGS]
    return page(
        "Findings",
        "Everything an audit can have to tell. A finding *undermines* the result when it means that the robust "
        "accuracy can't be believed; it is *resolved* when the audit applied the remedy itself.",
        *(part for parts in tables for part in parts),
        "## In Python",
        "Each finding carries what was measured and a few lines that show it again.",
        fence("python", _EXAMPLE),
    )


def _table(codes: Iterable[str]) -> str:
    kinds = [FINDINGS[code] for code in codes]
    rows = [
        (f"[{kind.code}]({kind.code}.md)", plain(kind.title), kind.severity, "yes" if kind.undermines else "no")
        for kind in kinds
    ]
    return table(("code", "title", "severity", "undermines"), rows)


def _page(kind: Kind) -> str:
    links = [f"- [{plain(r.label)}]({r.url})" if r.url else f"- {plain(r.label)}" for r in kind.references]
    example = EXAMPLES.get(kind.code)
    note = docs_families.note(docs_families.FINDINGS, "findings", kind.code)
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
        "## A model that shows it" if example else "",
        fence("python", example) if example else "",
        "## What its absence does not tell",
        note.limit,
        "## References" if links else "",
        "\n".join(links),
        "## See also",
        neighbours(note.near),
    )

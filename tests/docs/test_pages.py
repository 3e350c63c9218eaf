"""Every attack, finding, flag, setting and public name has its place in the documentation."""

from __future__ import annotations

import dataclasses
import re

import pytest
from scripts import build_docs, docs_attacks, docs_commands, docs_findings, docs_reference

import sparring
from sparring.attacks import ATTACKS, parse
from sparring.auditing import FINDINGS
from sparring.errors import SparringError
from sparring.evaluation import EFFORTS

ATTACK_PAGES = docs_attacks.pages()
FINDING_PAGES = docs_findings.pages()
COMMAND_PAGES = docs_commands.pages()
REFERENCE_PAGES = docs_reference.pages()


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_has_a_page(name: str) -> None:
    kind, page = ATTACKS[name], ATTACK_PAGES[f"attacks/{name}.md"]
    assert page.startswith(f"# {kind.__name__}\n")
    first, *_ = (kind.__doc__ or "").strip().splitlines()
    assert first.split(":")[0][:40] in page, "the docstring is missing"
    assert kind.paper, "an attack names its paper"
    assert docs_attacks.plain(kind.paper) in page
    assert docs_attacks.ACCESS[kind.access] in page
    for field in dataclasses.fields(kind):
        assert f"| `{field.name}` | `{field.type}` | `{field.default!r}` |" in page, field.name
        said = (kind.__doc__ or "").replace("_", " ")
        assert field.name.replace("_", " ") in said or field.name in ("loss", "steps"), (
            f"the docstring of {kind.__name__} does not say what {field.name} is"
        )
        if field.name == "loss":
            assert "norms-and-losses.md" in page
    for norm in kind.threats:
        assert re.search(rf"\*\*Norms:\*\* .*\b{norm}\b", page)
    text = re.search(r"\*\*As text:\*\* `([^`]+)`", page)
    assert text is not None
    assert isinstance(parse(text[1]), kind)
    assert f"]({name}.md)" in ATTACK_PAGES["attacks/index.md"]


def test_the_efforts_are_listed() -> None:
    for name, effort in EFFORTS.items():
        assert f"`{name}`" in ATTACK_PAGES["attacks/index.md"]
        for attack in effort.attacks:
            assert f"`{attack}`" in ATTACK_PAGES["attacks/index.md"]


@pytest.mark.parametrize("code", FINDINGS)
def test_a_finding_has_a_page(code: str) -> None:
    kind, page = FINDINGS[code], FINDING_PAGES[f"findings/{code}.md"]
    for text in (kind.code, kind.title, kind.severity, kind.explanation, kind.remedy):
        assert docs_findings.plain(text) in page, text
    assert docs_findings.UNDERMINES[kind.undermines] in page
    for reference in kind.references:
        assert f"[{reference.label}]({reference.url})" in page
    assert f"]({code}.md)" in FINDING_PAGES["findings/index.md"]


@pytest.mark.parametrize("name", docs_commands.commands())
def test_a_command_has_a_page_with_every_flag(name: str) -> None:
    command, page = docs_commands.commands()[name], COMMAND_PAGES[f"commands/{name}.md"]
    assert page.startswith(f"# sparring {name}\n")
    for flag in docs_commands.flags(command):
        assert f"`{flag}`" in page, flag
    for parameter in command.params:
        assert parameter.help, f"{parameter.opts[0]} has no help text"
    assert f"]({name}.md)" in COMMAND_PAGES["commands/index.md"]


def test_every_setting_of_the_file_is_explained() -> None:
    page = COMMAND_PAGES["commands/sparring-toml.md"]
    for key in docs_commands.settings():
        row = re.search(rf"^\| `{key}` \| .* \| (.+) \|$", page, re.M)
        assert row is not None, key
        assert row[1].strip(), f"{key} has no description"


@pytest.mark.parametrize("name", sparring.__all__)
def test_a_public_name_is_in_the_reference(name: str) -> None:
    index = REFERENCE_PAGES["reference/index.md"]
    link = re.search(rf"\[`sp\.{name}`\]\(([\w]+\.md)(?:#([\w.]+))?\) \| (.+) \|", index)
    assert link is not None
    page, anchor, promise = link.groups()
    assert promise.strip()
    if anchor is not None:
        assert f"{{ #{anchor} }}" in REFERENCE_PAGES[f"reference/{page}"]
    else:
        assert f"reference/{page}" in REFERENCE_PAGES


def test_the_attributes_of_public_classes_are_in_the_reference() -> None:
    page = REFERENCE_PAGES["reference/evaluation.md"]
    for attribute in ("clean_accuracy", "robust_accuracy", "attack_success_rate"):
        assert f"### Evaluation.{attribute}".replace("_", "\\_") in page
    assert "| `missed_bound` |" in page


def test_every_error_is_in_the_reference() -> None:
    for kind in (SparringError, *SparringError.__subclasses__()):
        assert f"{{ #errors.{kind.__name__} }}" in REFERENCE_PAGES["reference/errors.md"]


def test_what_is_generated_has_a_place_in_the_navigation() -> None:
    made = build_docs.generated()
    nav = build_docs.navigation(
        [{"A": "attacks/*"}, {"F": "findings/*"}, {"C": "commands/*"}, {"R": "reference/*"}], made
    )
    listed = re.findall(r"[\w/.-]+\.md", str(nav))
    assert sorted(listed) == sorted(made)
    assert [next(iter(entry.values()))[0] for entry in nav] == [
        f"{room}/index.md" for room in ("attacks", "findings", "commands", "reference")
    ]

"""Every entry of every table, every flag, setting and public name has its place in the documentation."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import tomllib
from types import ModuleType

import pytest
from scripts import (
    build_docs,
    docs_attacks,
    docs_certificates,
    docs_commands,
    docs_defenses,
    docs_entry,
    docs_families,
    docs_findings,
    docs_findings_shown,
    docs_notes,
    docs_reference,
    docs_training,
)

import sparring
from sparring.attacks import ATTACKS, parse
from sparring.auditing import FINDINGS
from sparring.certification import METHODS as CERTIFICATES
from sparring.certification import Smoothing, certify
from sparring.defenses.detectors import DETECTORS
from sparring.defenses.transforms import TRANSFORMS
from sparring.errors import SparringError
from sparring.evaluation import EFFORTS
from sparring.hardening import METHODS
from sparring.loading import load_config

ATTACK_PAGES = docs_attacks.pages()
FINDING_PAGES = docs_findings.pages()
OTHER_PAGES = docs_defenses.pages() | docs_training.pages() | docs_certificates.pages()
OTHER_ENTRIES = [
    *(("transforms", name, kind) for name, kind in TRANSFORMS.items()),
    *(("detectors", name, kind) for name, kind in DETECTORS.items()),
    *(("training", name, kind) for name, kind in METHODS.items()),
]
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


@pytest.mark.parametrize(("room", "name", "kind"), OTHER_ENTRIES)
def test_an_entry_has_a_page(room: str, name: str, kind: type) -> None:
    page = OTHER_PAGES[f"{room}/{name}.md"]
    assert page.startswith(f"# {kind.__name__}\n")
    first, *_ = (kind.__doc__ or "").strip().splitlines()
    assert docs_attacks.plain(first)[:40] in page, "the docstring is missing"
    assert kind.paper, "an entry names its paper"
    assert docs_attacks.plain(kind.paper) in page
    for field in dataclasses.fields(kind):
        assert f"| `{field.name}` | `{field.type}` | `{field.default!r}` |" in page, field.name
    if room == "transforms":
        assert docs_defenses.GRADIENT[kind.gradient] in page
        assert f"**Random:** {'yes' if kind.random else 'no'}" in page
    note = getattr(docs_notes, room.upper())[name]
    assert note.limit in page.partition("## What it does not protect against")[2]
    assert f"]({name}.md)" in OTHER_PAGES[f"{room}/index.md"]


@pytest.mark.parametrize("room", ["transforms", "detectors"])
def test_what_a_page_declares_can_be_read(room: str, tmp_path) -> None:
    for name in TRANSFORMS if room == "transforms" else DETECTORS:
        block = OTHER_PAGES[f"{room}/{name}.md"].split("```toml\n")[1].split("```")[0]
        file = tmp_path / "sparring.toml"
        file.write_text(f'[model]\nspec = "digits-cnn"\n\n{block}', encoding="utf-8")
        (entry,) = getattr(load_config(file).stack, room)
        assert str(entry).startswith(name) or name in str(entry)


@pytest.mark.parametrize("name", CERTIFICATES)
def test_a_certificate_has_a_page(name: str) -> None:
    page, way = OTHER_PAGES[f"certificates/{name}.md"], docs_certificates.WAYS[name]
    assert docs_attacks.plain(way.paper) in page
    assert docs_notes.CERTIFICATES[name].limit in page
    known = inspect.signature(certify).parameters
    for argument in way.reads:
        assert f"| `{argument}` | `{known[argument].annotation}` | `{known[argument].default!r}` |" in page
    if name == "smoothing":
        for field in dataclasses.fields(Smoothing):
            assert f"| `Smoothing.{field.name}` | `{field.type}` | `{field.default!r}` |" in page
    assert f"]({name}.md)" in OTHER_PAGES["certificates/index.md"]


def test_every_argument_of_certify_is_on_some_page() -> None:
    shared = {"model", "images", "labels", "threat", "method", "progress"}
    read = {argument for way in docs_certificates.WAYS.values() for argument in way.reads}
    assert read | shared == set(inspect.signature(certify).parameters)


def test_signs_of_masking_stand_in_the_threat_model() -> None:
    page = (build_docs.ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
    masked = next(each for each in docs_families.FINDINGS if each.title == "Masked gradients")
    for name in masked.names:
        assert f"findings/{name}.md" in page, name


def test_what_is_written_about_entries_is_about_entries_that_exist() -> None:
    for room, table in (("TRANSFORMS", TRANSFORMS), ("DETECTORS", DETECTORS), ("TRAINING", METHODS)):
        assert set(getattr(docs_notes, room)) == set(table)
    assert set(docs_notes.CERTIFICATES) == set(docs_certificates.WAYS) == set(CERTIFICATES)
    for families, table in ((docs_families.ATTACKS, ATTACKS), (docs_families.FINDINGS, FINDINGS)):
        assert sorted(name for each in families for name in each.names) == sorted(table)
    assert {*docs_findings_shown.SHOWN, *docs_findings_shown.WITHOUT} == set(FINDINGS)


@pytest.mark.parametrize("room", build_docs.ROOMS)
def test_an_entry_that_nobody_wrote_about_fails_the_build(room: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = build_docs.ROOMS[room]
    if isinstance(table, tuple):
        monkeypatch.setattr(docs_certificates, "METHODS", (*table, "forgotten"))
    else:
        first = next(iter(table.values()))
        entry = dataclasses.replace(first, code="forgotten") if room == "findings" else first
        monkeypatch.setitem(table, "forgotten", entry)
    with pytest.raises(LookupError, match="forgotten"):
        build_docs.generated()


@pytest.mark.parametrize("room", build_docs.ROOMS)
def test_a_page_that_nobody_makes_fails_the_build(room: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = f"{room}/{next(iter(build_docs.ROOMS[room]))}"
    for maker in build_docs.TABLES:
        pages = {name: text for name, text in maker.pages().items() if name != f"{gone}.md"}
        monkeypatch.setattr(maker, "pages", lambda pages=pages: pages)
    with pytest.raises(LookupError, match=f"no page is made for {gone}$"):
        build_docs.generated()


def test_neighbours_exist() -> None:
    """Also checked by the build, with their anchors; here it takes no build."""
    made = {*build_docs.generated(), *(path.name for path in (build_docs.ROOT / "docs").glob("*.md"))}
    for name, page in build_docs.entries().items():
        for target in re.findall(r"\]\(\.\./([^)#]+)", page):
            assert target in made, f"{name} links to {target}"


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


def test_no_help_text_is_eaten_by_the_terminal() -> None:
    """Typer takes words in square brackets for mark-up and leaves them out."""
    for command in docs_commands.commands().values():
        for part in (command, *getattr(command, "commands", {}).values()):
            texts = [part.help, *(parameter.help for parameter in part.params)]
            assert not [text for text in texts if text and re.search(r"\[[a-z]", text)], part.name


def test_what_a_docstring_says_of_a_parameter_stands_beside_it() -> None:
    text = "Climbs.\n\nlinf: signs. steps, decay: the paper's. size: in pixels;\nodd. Raises it.\n\n    x = 1"
    kept, said = docs_entry.told_apart(text, ["steps", "decay", "size", "loss"])
    assert kept == "Climbs.\n\nlinf: signs.\n\nRaises it.\n\n    x = 1"
    assert said == {"steps": "the paper's.", "decay": "the paper's.", "size": "in pixels; odd."}
    page = ATTACK_PAGES["attacks/mifgsm.md"]
    assert "| `steps` | `int` | `10` | gradients per image: the paper's 10 and 1.0. |" in page
    assert page.count("the paper's 10 and 1.0") == 2, "it is said once for each of the two"


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


@pytest.mark.parametrize("room", ["attacks", "defenses", "defenses.detectors", "defenses.transforms", "perturbations"])
def test_every_name_of_a_public_package_is_in_the_reference(room: str) -> None:
    package, page = importlib.import_module(f"sparring.{room}"), REFERENCE_PAGES[f"reference/{room}.md"]
    for name in package.__all__:
        if not isinstance(getattr(package, name), ModuleType):
            assert f"{{ #{room}.{name} }}" in page, name


def test_the_readme_names_every_command_and_extra() -> None:
    readme = (build_docs.ROOT / "README.md").read_text(encoding="utf-8")
    for name in docs_commands.commands():
        assert f"| `sparring {name}` |" in readme
    settings = tomllib.loads((build_docs.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for extra in settings["project"]["optional-dependencies"]:
        assert f"`{extra}`" in readme, extra


def test_every_error_is_in_the_reference() -> None:
    for kind in (SparringError, *SparringError.__subclasses__()):
        assert f"{{ #errors.{kind.__name__} }}" in REFERENCE_PAGES["reference/errors.md"]


def test_what_is_generated_has_a_place_in_the_navigation() -> None:
    made = build_docs.generated()
    rooms = list(dict.fromkeys(name.partition("/")[0] for name in made))
    nav = build_docs.navigation([{room: f"{room}/*"} for room in rooms], made)
    listed = re.findall(r"[\w/.-]+\.md", str(nav))
    assert sorted(listed) == sorted(made)
    assert [next(iter(entry.values()))[0] for entry in nav] == [f"{room}/index.md" for room in rooms]
    written = (build_docs.ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for room in rooms:
        assert f": {room}/*" in written, f"{room} is not in mkdocs.yml"
    for page in (build_docs.ROOT / "docs").glob("*.md"):
        assert f" {page.name}\n" in written, f"{page.name} is not in mkdocs.yml"

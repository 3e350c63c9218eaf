"""Measured figures on the pages are those of the records in bench/results."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from scripts import docs_measured
from scripts.docs_measured import RESULTS, record

ROOT = Path(__file__).resolve().parents[2]


def page(name: str) -> str:
    return " ".join((ROOT / "docs" / name).read_text(encoding="utf-8").split())


def streams() -> Any:
    """What the guard saw, wherever its record lies."""
    return record("guard-streams" if (RESULTS / "guard-streams.json").is_file() else "guard/streams")


def share(estimate: dict[str, float], n: bool = False) -> str:
    text = f"{100 * estimate['value']:.1f} % [{100 * estimate['low']:.1f}, {100 * estimate['high']:.1f}]"
    return f"{text}, n = {estimate['n']}" if n else text


def test_the_table_of_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    rows = importlib.import_module("train_table").tables(RESULTS / "train").splitlines()
    written = (ROOT / "docs" / "hardening.md").read_text(encoding="utf-8").splitlines()
    for row in rows:
        assert row in written, f"python bench/train.py --table prints {row!r}"


def test_published_trainings() -> None:
    said = page("published-figures.md")
    mix = record("train/mnist5k-mix")
    after = mix["card"]["after"]
    for name, value in (("no attack", after["clean"]), ("FGSM", mix["fgsm"]), ("standard effort", after["robust"])):
        assert f"| {name} | {share(value, n=True)} |" in said
    for name in ("pgd", "fast"):
        after = record(f"train/mnist5k-{name}")["card"]["after"]
        assert f"| {100 * after['clean']['value']:.1f} % | {share(after['robust'])} |" in said


def test_transforms() -> None:
    said, defenses = page("published-figures.md"), page("defenses.md")
    rows = record("defenses/jpeg")
    for key in ("quality 75, eps 4/255", "quality 75, eps 8/255"):
        one = rows[key]
        assert f"| {share(one['naive'], n=True)} | {share(one['adaptive'])} |" in said
        assert share(one["naive"]) in defenses
        assert share(one["adaptive"]) in defenses
        assert one["taken_back"]["value"] == 1.0
    rows = record("defenses/random")
    assert f"{share(rows['resize_pad']['naive'], n=True)} | {share(rows['resize_pad']['adaptive'])} |" in said
    for name in ("resize_pad", "resize_back", "noise"):
        row = next(rows[key] for key in rows if key.startswith(name))
        assert f"{share(row['naive'])} | {share(row['adaptive'])} |" in defenses, name


def test_certificates() -> None:
    def percent(value: float) -> str:
        return f"{100 * value + 1e-9:.1f}"

    said, published = page("certification.md"), page("published-figures.md")
    for name in ("fashion-mnist", "mnist5k"):
        one = record(f"certify/{name}")
        cells = [percent(one["ibp"]["clean"])]
        for method in ("ibp", "crown-ibp"):
            found = one[method]
            cells.append(f"{percent(found['certified'])} [{percent(found['low'])}, {percent(found['high'])}]")
        cells += [percent(one["crown"]["certified"]), percent(one["attacked_quick_1000"])]
        assert f"| {' | '.join(cells)} |" in said
        assert f"{cells[3]} % of" in published


@pytest.mark.parametrize("path", docs_measured.PAGES, ids=lambda path: path.name)
def test_figures_inside_sentences(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert docs_measured.filled(text) == text, "python scripts/docs_measured.py"
    assert text.count("<!-- measured: ") == text.count("<!-- end -->")


def test_the_stages_of_the_distilled_net_are_those_the_sentence_names() -> None:
    one = docs_measured.distilled()
    assert [name.partition(":")[0] for name in one["names"][:3]] == ["fgsm", "pgd", "pgd"]
    assert "steps=10" in one["names"][1]
    assert "loss=margin" in one["names"][1]
    assert one["names"][2] == "pgd:steps=20"
    assert one["broke"][2] == 0


def test_the_sticker() -> None:
    one, said = docs_measured.sticker(), page("published-figures.md")
    assert f"at most {100 * one['largest_share']:.2f} % of the picture" in said
    assert one["target"] == 859
    for name, pictures in (("trained_on", 6), ("held_out", 36)):
        assert one[name]["photographs"] == pictures
        assert one[name]["grey_sticker"] == 0.0


def test_the_guard() -> None:
    found, said = streams(), page("guard.md")
    assert f"the other {found['square']['judged']} were all alerted" in said
    assert found["square"]["alert before success"] == found["square"]["judged"]
    assert f"after {found['square']['median queries to the alert']} queries in the median" in said
    assert f"after {found['hopskipjump']['median queries to the alert']} queries in the median" in said
    assert found["benign"]["alarms"] == 0


def test_masked_nets() -> None:
    said = page("diagnosis.md")
    for one in record("diagnose/confusion")["masked"]:
        assert f"| {', '.join(sorted(set(one['findings'])))} | {100 * one['robust']:.1f} % |" in said, one["model"]


def test_the_readme() -> None:
    said = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    jpeg = record("defenses/jpeg")["quality 75, eps 8/255"]
    assert f"{share(jpeg['naive'])} against naive attacks | {share(jpeg['adaptive'])} against one who knows it" in said
    pgd, mix = record("train/mnist5k-pgd")["card"]["after"], record("train/mnist5k-mix")
    assert f"linf 0.3: {share(pgd['robust'])}" in said
    assert f"{100 * mix['fgsm']['value']:.1f} % under FGSM, {share(mix['card']['after']['robust'])}" in said
    certified = record("certify/mnist5k")
    assert f"{100 * certified['crown']['certified']:.1f} % proved" in said
    assert f"{100 * certified['attacked_quick_1000']:.1f} % under attack" in said
    nets = record("diagnose/confusion")
    assert f"{sum(one['right'] for one in nets['masked'])} of {len(nets['masked'])} masked nets" in said
    assert f"{sum(not one['findings'] for one in nets['honest'])} honest nets" in said
    hops, benign = streams()["hopskipjump"], streams()["benign"]
    assert f"{hops['alert before success']} of {hops['judged']} sessions before success, after" in said
    assert f"after {hops['median queries to the alert']} queries" in said
    assert f"no alarm in {sum(benign['sessions'].values())} benign sessions" in said

"""The bracket of an audit: what is proved, what attacks left, and what happens when they disagree."""

from __future__ import annotations

import io
from unittest import mock

import pytest
import torch
from rich.console import Console
from tests.edges.auditing_models import Around, audited, found
from tests.helpers_core import Linear, pictures
from torch import Tensor, nn

import sparring as sp
from sparring.auditing import load_report, proofs, remedies
from sparring.certification.certify import Bounder
from sparring.certification.graph import trace
from sparring.certification.work import multiplications
from sparring.reports import html, junit, terminal

EPS = 0.02
N = 110


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    images = pictures(N, 1, 4, 4)
    labels = Linear(16, 3, seed=1)(images).argmax(1)
    labels[::10] = (labels[::10] + 1) % 3
    return images, labels


@pytest.fixture(scope="module")
def report(data):
    return audited(Linear(16, 3, seed=1), data, eps=EPS, effort="standard")


def test_every_image_of_a_linear_model_is_proved_or_broken(report):
    both = report.bracket
    assert both.unknown == 0
    assert both.lower == both.upper == report.evaluation.robust_accuracy
    assert both.certified + both.broken == N
    assert 1 <= both.attacked < both.certified
    assert not found(report, "certificate-contradicted")
    assert report.believable
    assert f"{100 * both.lower.value:.1f} % are proved" in report.headline


def test_the_curve_of_proofs_lies_under_that_of_attacks(report):
    (attacked,) = [c for c in report.curves if c.attack == "quick attacks"]
    left = {p.eps: p.accuracy.value for p in attacked.points}
    points = [p for p in report.bracket.curve.points if p.eps in left]
    values = [p.accuracy.value for p in points]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1]
    assert all(value <= left[p.eps] + 1e-9 for p, value in zip(points, values, strict=True))


def test_every_form_of_the_report_shows_it(report):
    page = html.render(report)
    assert "What is proved" in page
    assert "Proved and attacked accuracy" in page
    out = io.StringIO()
    terminal.render(report, Console(file=out, width=120))
    assert "at least" in out.getvalue()
    assert "proved by crown-ibp" in " ".join(out.getvalue().split())
    assert "proved by crown-ibp" in junit.render(report)
    assert load_report(report.model_dump_json()) == report
    old = report.model_dump(exclude={"bracket"}) | {"schema_version": "1.1"}
    assert load_report(sp.Report.model_validate(old).model_dump_json()).bracket is None


def test_a_wrong_certificate_is_found_and_everything_is_attacked(data):
    model, threat = Linear(16, 3, seed=1), 0.3
    honest = audited(model, data, eps=threat)
    with mock.patch.object(Bounder, "least", lambda self, images, labels, eps=None: torch.ones(len(images))):
        report = audited(model, data, eps=threat)
    (finding,) = found(report, "certificate-contradicted")
    assert finding.undermines
    assert not finding.resolved
    assert report.bracket.lower is None
    assert report.bracket.contradicted
    assert report.evaluation.robust_accuracy == honest.evaluation.robust_accuracy
    assert not any(r.certified for r in report.evaluation.records)
    assert "proved" not in report.headline
    assert "no lower bound" in html.render(report)


def test_remedies_do_not_forget_what_was_proved(data):
    images, labels = data
    model, threat = Linear(16, 3, seed=1), sp.ThreatModel("linf", EPS)
    proved = sp.certify(model, images, labels, threat)
    first = sp.evaluate(model, images, labels, threat, attacks=["fgsm"], certified=proved)
    left = [r.index for r in first.records if r.attacked and r.broken_by is None]
    rows = torch.tensor(left)
    more = sp.evaluate(model, images[rows], labels[rows], threat, attacks=["pgd"])
    both = remedies.merged(first, more, left, "tried again")
    assert [r.certified for r in both.records] == [r.certified for r in first.records]
    assert sum(r.certified and r.attacked for r in both.records) > 0


class Product(nn.Module):
    """A layer that bounds cannot pass."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.sigmoid()


def test_what_cannot_be_proved_is_said_in_a_line(data):
    report = audited(nn.Sequential(Product(), Linear(16, 3, seed=1)), data, eps=EPS)
    assert report.bracket.lower is None
    assert "Product" in report.bracket.note
    assert not [f for f in report.findings if f.undermines]
    report = audited(Linear(16, 3, seed=1), data, eps=0.5)
    assert report.bracket.tried == proofs.TRIED
    assert "none of the 32" in report.bracket.note
    with mock.patch.object(proofs, "WORK", 10):
        assert "multiplications" in audited(Linear(16, 3, seed=1), data, eps=EPS).bracket.note


def test_work_is_bounded_and_goes_to_the_largest_margins(data):
    model = Linear(16, 3, seed=1)
    each = 3 * multiplications(trace(model, data[0]).layers())
    with mock.patch.object(proofs, "WORK", proofs.ROUNDS * each * 40):
        report = audited(model, data, eps=EPS)
    margins = torch.tensor([r.margin for r in report.evaluation.records])
    proved = torch.tensor([r.certified for r in report.evaluation.records])
    assert report.bracket.tried == int(proved.sum()) == 40
    assert "too many" in report.bracket.note
    assert report.bracket.unknown > 0
    assert float(margins[proved].min()) > 0


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (lambda x: Linear(16, 3, seed=1)(x), {}),
        (Around(Linear(16, 3, seed=1), before=lambda x: x + 1e-3 * torch.randn_like(x)), {}),
        (Linear(16, 3, seed=1), {"targets": torch.zeros(40, dtype=torch.int64)}),
        (Linear(16, 3, seed=1), {"norm": "l1"}),
        (sp.BlackBox(Linear(16, 3, seed=1), "logits"), {}),
    ],
    ids=["function", "random", "targeted", "l1", "black box"],
)
def test_there_is_no_bracket_where_a_certificate_would_be_about_something_else(data, model, options):
    few = (data[0][:40], data[1][:40])
    norm = options.pop("norm", "linf")
    report = sp.audit(model, *few, sp.ThreatModel(norm, EPS), **{"attacks": ["random_noise:draws=2"], **options})
    assert report.bracket is None

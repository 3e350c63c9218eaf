"""Two reports side by side: which images changed their fate, whether chance explains it, and what else differs."""

import pytest
from tests.edges import reports_factory as factory
from tests.edges.auditing_models import audited, found

import sparring as sp
from sparring.auditing import compare_reports, load_report
from sparring.errors import InputError
from sparring.estimate import mcnemar
from sparring.evaluation import Record


def record(index, digest, *, label=3, wrong=False, broken_by=None):
    return Record(
        index=index,
        digest=digest,
        label=label,
        prediction=label + 1 if wrong else label,
        margin=0.1,
        broken_by=broken_by,
        adversarial_prediction=0 if broken_by else None,
        distance=0.1 if broken_by else None,
        forwards=3,
        backwards=3,
    )


def report(*records, **changes):
    base = factory.sample()
    evaluation = base.evaluation.model_copy(update={"records": records})
    return base.model_copy(update={"evaluation": evaluation, "findings": (), **changes})


def test_images_are_matched_by_digest_wherever_they_stand():
    old = report(record(0, "a"), record(1, "b", broken_by="fgsm"), record(2, "c"), record(3, "d"))
    new = report(record(0, "c"), record(1, "b"), record(2, "a", broken_by="pgd"), record(3, "e"))
    compared = compare_reports(old, new)
    assert [(c.index, c.digest, c.broken_by) for c in compared.newly_broken] == [(2, "a", "pgd")]
    assert [(c.index, c.digest, c.broken_by) for c in compared.newly_robust] == [(1, "b", "fgsm")]
    assert (compared.images, compared.only_old, compared.only_new) == (3, 1, 1)
    assert compared.old_robust.value == compared.new_robust.value == 2 / 3
    assert compared.p_value == mcnemar(1, 1)


def test_wrong_without_an_attack_is_no_longer_robust():
    compared = compare_reports(report(record(0, "a")), report(record(0, "a", wrong=True)))
    (image,) = compared.newly_broken
    assert image.broken_by is None
    back = compare_reports(report(record(0, "a", wrong=True)), report(record(0, "a")))
    assert back.newly_robust[0].broken_by is None


def test_an_image_that_stands_twice_in_a_set_is_matched_in_order():
    old = report(record(0, "a", broken_by="fgsm"), record(1, "a"), record(2, "a"))
    new = report(record(0, "a", broken_by="fgsm"), record(1, "a", broken_by="fgsm"))
    compared = compare_reports(old, new)
    assert [c.index for c in compared.newly_broken] == [1]
    assert (compared.images, compared.only_old, compared.only_new) == (2, 1, 0)


def test_another_label_is_another_question():
    compared = compare_reports(report(record(0, "a", label=1)), report(record(0, "a", label=2, broken_by="fgsm")))
    assert (compared.images, compared.relabelled, compared.newly_broken) == (0, 1, ())
    assert compared.old_robust.value is None
    assert "share no image" in compared.verdict


def test_what_else_differs_is_listed():
    old = report(record(0, "a"))
    subject = old.subject.model_copy(update={"model": "my:net", "model_digest": "sha256:other"})
    new = report(
        record(0, "a"),
        subject=subject,
        attacker=factory.attacker(eps=0.3, eps_text="0.3", attacks=("fgsm",)),
        effort="named attacks",
        seed=7,
        complete=False,
    )
    said = " | ".join(compare_reports(old, new).differences)
    for words in (
        "the model is another one: digits-cnn then, my:net now",
        "eps: 16/255 then, 0.3 now",
        "square:queries=500 then, fgsm now",
        "seed: 0 then, 7 now",
        "the new report is of an audit that did not finish",
    ):
        assert words in said
    assert compare_reports(old, old).differences == ()
    by_effort = report(record(0, "a"), attacker=factory.attacker(attacks=("fgsm",)), effort="quick")
    assert compare_reports(old, by_effort).differences == ("effort: standard then, quick now",)


@pytest.mark.parametrize(("old", "new"), [(None, None), ("report.json", None), (None, {})])
def test_only_reports_are_compared(old, new):
    given = [factory.bare() if value is None else value for value in (old, new)]
    if old is None and new is None:
        assert compare_reports(*given).images == 0
        return
    with pytest.raises(InputError, match="must be a Report"):
        compare_reports(*given)


@pytest.fixture(scope="module")
def data():
    return sp.load_data("digits", n=100)


@pytest.fixture(scope="module")
def net():
    return sp.load_model("digits-cnn")


def test_an_audit_with_a_baseline(net, data, tmp_path):
    old = audited(net, data, 0.02)
    path = old.save(tmp_path / "old.json")
    new = audited(net, (data[0].flip(0), data[1].flip(0)), 0.1, baseline=load_report(path.read_bytes()))
    compared = new.comparison
    assert compared.images == 100
    broken = {r.digest for r in new.evaluation.records if r.broken_by}
    already = {r.digest for r in old.evaluation.records if r.broken_by}
    assert {c.digest for c in compared.newly_broken} == broken - already
    assert compared.newly_robust == ()
    (finding,) = found(new, "robustness-fell")
    assert "eps: 0.02 then, 0.1 now" in finding.evidence
    assert not finding.undermines
    assert f"{100 * len(compared.newly_broken) / 100:.1f} points lower than in the baseline" in compared.verdict
    assert load_report(new.save(tmp_path / "new.json").read_bytes()) == new


def test_the_same_audit_again_differs_in_nothing(net, data):
    old = audited(net, data, 0.05)
    compared = audited(net, data, 0.05, baseline=old).comparison
    assert compared.newly_broken == compared.newly_robust == compared.differences == ()
    assert compared.p_value == 1
    assert "as high as in the baseline" in compared.verdict


def test_better_is_no_finding(net, data):
    report = audited(net, data, 0.02, baseline=audited(net, data, 0.1))
    assert len(report.comparison.newly_robust) > 20
    assert not found(report, "robustness-fell")


def test_a_baseline_is_a_report(net, data):
    with pytest.raises(InputError, match="baseline must be a Report"):
        sp.audit(net, *data, sp.ThreatModel("linf", 0.1), baseline="old.json")

"""The lab without a browser: settings, controls, answers, curves, defenses, and what hostile links and pictures get."""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qsl
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from sparring.attacks import ATTACKS, FGSM, PGD, parse
from sparring.errors import DataError, InputError, SparringError
from sparring.goal import Targeted, Untargeted
from sparring.lab import curves, panels, plot, rivals, shop
from sparring.lab import layers as layering
from sparring.lab.attempt import Case, TooSlowError, best
from sparring.lab.controls import controls, written
from sparring.lab.formula import walk
from sparring.lab.picture import read_upload, shown
from sparring.lab.play import KEPT, Play
from sparring.lab.serve import listening
from sparring.lab.settings import ATTACK_NAMES, LEVELS, Settings, attacks_in, chosen_attack, threat_at
from sparring.lab.subject import Example, Shelf, Subject, frozen
from sparring.loading import Config, merge
from sparring.model import frozen_eval
from sparring.norms import NORMS


@pytest.fixture(scope="module")
def play() -> Play:
    return Play()


@pytest.fixture(scope="module")
def case(play: Play) -> Case:
    return play.case(Settings("digits-cnn", "digit 5"))


class Linear(nn.Module):
    """Two classes; logit 1 is 4 times the sum of the numbers less 1, so that everything is known in closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((4,), 4.0))

    def forward(self, images: Tensor) -> Tensor:
        score = images.flatten(1) @ self.weight - 4
        return torch.stack([torch.zeros_like(score), score], 1)


def linear_case(image: Tensor, target: int | None = None) -> Case:
    subject = Subject(
        "linear", frozen(Linear()), (1, 2, 2), ("low", "high"), (Example("x", lambda: image),), torch.rand
    )
    return Case(subject, image, target)


# Settings and links


def test_a_link_carries_every_setting() -> None:
    settings = Settings("digits-cnn", "digit 5", "pgd:steps=3", "l2", 17, 4)
    assert Settings.read(dict(parse_qsl(settings.query())), "other", "else") == settings


@pytest.mark.parametrize(
    "query",
    [
        {"norm": "l7"},
        {"level": "-3"},
        {"level": "1e9"},
        {"target": "x"},
        {"attack": "<script>"},
        {"picture": "../../etc/passwd"},
        {"level": "٣"},
    ],
)
def test_a_wrong_link_is_no_error(query: dict[str, str]) -> None:
    settings = Settings.read(query, "digits-cnn", "digit 5")
    assert settings.norm in NORMS
    assert 0 <= settings.level <= LEVELS


@pytest.mark.parametrize(
    "text",
    ["os:system", "fgsm+os:system:x=1", "fgsm:step=1+os:system", "tests.helpers_core:Mine", "", "eot", "patch", "nope"],
)
def test_a_link_cannot_name_code(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []
    monkeypatch.setattr("sparring.attacks.spec.importlib.import_module", imported.append)
    with pytest.raises(InputError):
        chosen_attack(text)
    assert imported == []


def test_the_slider_in_steps_of_a_grey_level() -> None:
    assert [threat_at("linf", level, 64).eps_text for level in (0, 1, 8, 25)] == ["0", "1/255", "8/255", "25/255"]
    assert threat_at("linf", LEVELS, 64).eps <= 0.1
    assert threat_at("l0", 3, 64).eps == 3
    assert threat_at("l0", 3, 150528).eps == 150
    assert threat_at("l2", 4, 64).eps == pytest.approx(0.2)


def test_every_plain_attack_is_offered_in_its_norms() -> None:
    assert {"fgsm", "pgd", "cw", "deepfool", "jsma", "square"} <= set(ATTACK_NAMES)
    for norm in NORMS:
        assert all(norm in ATTACKS[name].threats for name in attacks_in(norm))
    assert "jsma" not in attacks_in("linf")


# Controls


@pytest.mark.parametrize("name", ATTACK_NAMES)
def test_controls_write_the_attack_they_were_read_from(name: str) -> None:
    found = controls(name)
    assert written(name, [(c.name, c.value) for c in found]) == name


def test_a_changed_control_is_in_the_text() -> None:
    values = {c.name: c.value for c in controls("pgd")} | {"steps": "7", "early_stop": False}
    assert chosen_attack(written("pgd", list(values.items()))) == PGD(steps=7, early_stop=False)
    with pytest.raises(InputError, match="steps"):
        written("pgd", [("steps", "-1")])


# The first answer


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("target", [None, 3])
def test_one_step_is_fgsm_itself(play: Play, norm: str, target: int | None) -> None:
    case = play.case(Settings("digits-cnn", "digit 5", target=target))
    threat = threat_at(norm, 9, 64)
    goal = Untargeted(torch.tensor([5])) if target is None else Targeted(torch.tensor([target]))
    expected = FGSM()(case.subject.model, case.image, goal, threat)
    assert torch.equal(case.one_step(threat).adversarial, expected)


def test_the_first_answer_costs_less_than_four_passes_and_the_next_one_no_gradient(play: Play) -> None:
    """Bare is one forward and one backward pass; four times that is allowed."""
    known = play.shelf["digits-cnn"]
    passes: list[int] = []

    class Counted(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            passes.append(len(images) * (2 if images.requires_grad else 1))
            output: Tensor = known.model(images)
            return output

    subject = Subject("counted", Counted(), known.shape, known.names, known.examples, known.clean)
    subject.plan  # noqa: B018 - chosen once, when the model is loaded
    passes.clear()
    case = Case(subject, known.example("digit 5").open())
    case.one_step(threat_at("linf", 8, 64))
    assert sum(passes) <= 8
    passes.clear()
    case.one_step(threat_at("linf", 9, 64))
    assert sum(passes) == 2  # the tensor and its 8-bit picture


def test_another_attack_answers_second_and_is_remembered(play: Play) -> None:
    settings = Settings("digits-cnn", "digit 5", "pgd:steps=5", level=20)
    answers = [seen for _, _, seen in play.shown(settings)]
    assert [seen.running for seen in answers] == ["pgd:steps=5", None]
    assert answers[0].attempt.attack == "fgsm"
    again = [seen for _, _, seen in play.shown(settings)]
    assert [seen.attempt for seen in again] == [answers[1].attempt]
    found = play.files(settings)
    assert found is not None
    exact = np.load(io.BytesIO(found[1]))
    assert np.array_equal(exact, answers[1].attempt.adversarial[0].numpy())
    picture = np.asarray(Image.open(io.BytesIO(found[0])))
    assert picture.shape == (8, 8)
    assert np.abs(picture / 255 - exact[0]).max() <= 0.5 / 255 + 1e-6


def test_the_verdict_is_ours_not_the_attacks() -> None:
    case = linear_case(torch.full((1, 1, 2, 2), 0.2))
    threat = threat_at("linf", 20, 4)
    inside = case.judged("x", threat, case.image + threat.eps, 0, 0, 0.0)
    beyond = case.judged("x", threat, torch.full((1, 1, 2, 2), 0.9), 0, 0, 0.0)
    assert inside.success
    assert not beyond.success
    assert best(beyond.logits, ("low", "high"))[0].name == "high"


def test_an_attack_that_takes_too_long_is_stopped(case: Case) -> None:
    with pytest.raises(TooSlowError, match="stopped after"):
        case.attempted(parse("pgd:steps=400,early_stop=false"), threat_at("linf", 4, 64), seconds=0.05)


def test_a_target_must_be_another_class(play: Play) -> None:
    with pytest.raises(InputError, match="already says"):
        play.case(Settings("digits-cnn", "digit 5", target=5)).one_step(threat_at("linf", 4, 64))
    with pytest.raises(InputError, match="does not exist"):
        play.case(Settings("digits-cnn", "digit 5", target=77)).one_step(threat_at("linf", 4, 64))


def test_only_the_latest_cases_are_kept(tmp_path: Path) -> None:
    play = Play()
    for i in range(KEPT + 3):
        play.case(Settings("digits-cnn", "digit 5", target=i))
    assert len(play._cases) == KEPT


# Curves and formula


def test_the_first_flip_of_a_linear_model_is_where_it_must_be() -> None:
    """4 (4·(0.2 + eps)) - 4 > 0 beyond eps = 0.05: level 13 is the first above 12.75."""
    case = linear_case(torch.full((1, 1, 2, 2), 0.2))
    for attack in (FGSM(), PGD(steps=3, random_start=False)):
        *_, curve = curves.confidence(case, attack, "linf")
        assert curve.whole
        assert curve.first_flip is not None
        assert curve.holds_at is not None
        assert (curve.first_flip.level, curve.holds_at.level) == (13, 12)
    assert curves.known(case, FGSM(), "linf") is not None


def test_a_slow_curve_says_that_it_is_not_complete(case: Case) -> None:
    *_, curve = curves.confidence(case, PGD(steps=2), "linf", seconds=0)
    assert curve.whole
    assert "slow" in curve.note


def test_the_first_order_line_touches_the_loss_at_the_picture() -> None:
    case = linear_case(torch.full((1, 1, 2, 2), 0.2))
    line = curves.loss_line(case, "linf")
    assert line.true[0] == pytest.approx(line.straight[0])
    slope = 4 * 4 * torch.sigmoid(torch.tensor(4 * 0.8 - 4)).item()
    assert line.straight[5] - line.straight[0] == pytest.approx(slope * 5 / 255, rel=1e-4)
    assert line.true[-1] > line.straight[-1]  # cross-entropy is convex


def test_a_plot_keeps_to_its_frame_and_survives_strange_numbers() -> None:
    """The straight line neither squeezes the loss nor is bent at the edge; what is no number is left out."""
    loss = [(0.0, 0.1), (1.0, 0.3), (2.0, float("inf")), (3.0, float("nan"))]
    lines = [plot.Curve("loss", "one", loss), plot.Curve("line", "straight", [(0.0, 0.1), (3.0, 900.0)])]
    text = plot.line_plot(lines, title="t", x_label="x", y_label="y", marks=[(9.0, "here", "beyond")])
    root = ElementTree.fromstring(text)  # well-formed
    shown = {line.get("class"): (line.get("points") or "").split() for line in root.iter("polyline")}
    assert len(shown["one"]) == 2
    heights = [float(point.partition(",")[2]) for point in shown["one"]]
    assert heights[0] - heights[1] > plot.DOWN / 3
    assert float(shown["straight"][1].partition(",")[2]) < -1000
    assert plot.line_plot([plot.Curve("none", "one", [])], title="t", x_label="x", y_label="y")


def test_the_formula_holds_for_every_pixel_it_shows(case: Case) -> None:
    threat = threat_at("linf", 8, 64)
    shown_walk = walk(case, threat)
    assert len(shown_walk.pixels) >= 4
    for p in shown_walk.pixels:
        assert float(case.image[0, p.channel, p.row, p.column]) == pytest.approx(p.value)
        sign = (p.slope > 0) - (p.slope < 0)
        assert p.result == pytest.approx(min(1.0, max(0.0, p.value + sign * threat.eps)), abs=1e-6)
        assert p.clipped == (abs(p.step - sign * threat.eps) > 1e-6)
    line = curves.loss_line(case, "linf")
    assert shown_walk.before + shown_walk.gain == pytest.approx(line.straight[8], rel=1e-4)
    assert shown_walk.after == pytest.approx(line.true[8], rel=1e-4)


# Defenses, the hardened model, the gallery


def test_a_stack_meets_naive_and_adaptive_attacks(case: Case) -> None:
    stack = layering.built(case, ["bit_depth"], ["feature_squeezing"])
    threat = threat_at("linf", 20, 64)
    rows = list(layering.verdicts(case, threat, FGSM(), stack))
    assert [row.name.partition(":")[0] for row in rows] == ["no attack", "naive", "adaptive", "adaptive"]
    for row in rows:
        assert row.stack is not None
        assert row.flagged == any(score > threshold for _, score, threshold in row.scores)
        assert row.distance <= threat.eps * 1.0001
    assert not rows[0].through
    text = panels.layers(stack, case.subject.clean_are, rows, done=True)
    assert "feature_squeezing" in text
    assert "200 training digits" in text


def test_the_search_against_a_stack_is_stopped_too(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: object, progress: Callable[[str, int], None], **__: object) -> None:
        time.sleep(0.6)
        progress("a stage", 1)

    monkeypatch.setattr(layering, "evaluate_stack", slow)
    *_, last = layering.verdicts(case, threat_at("linf", 2, 64), FGSM(), layering.built(case, [], []), seconds=0.5)
    assert "stopped after 0.5 seconds" in last.note


def test_the_gallery_has_every_number(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "hardened_case", lambda given: Case(given.subject, given.image))
    shots = list(rivals.gallery(case, 20))
    assert [shot.attack.partition(":")[0] for shot in shots] == ["fgsm", "pgd", "cw", "deepfool", "jsma"]
    for shot in shots:
        assert not shot.note
        assert shot.adversarial is not None
        assert shot.hardened == shot.success  # the stand-in is the very model
        assert shot.forwards > 0
        assert shot.ssim < 1
        assert shot.linf <= shot.l2
    assert shots[2].l2 <= shots[0].l2 + 1  # cw looks for the nearest
    text = panels.gallery(case, shots, done=True)
    assert text.count("<article>") == 5


def test_a_model_without_a_hardened_version_says_so(case: Case) -> None:
    bare = Subject("bare", case.subject.model, case.subject.shape, None, case.subject.examples, case.subject.clean)
    assert rivals.hardened_case(Case(bare, case.image)) is None


# Names from outside


def test_names_are_escaped_everywhere(case: Case) -> None:
    evil = "<img src=x onerror=alert(1)>"
    names = tuple(evil for _ in range(10))
    subject = Subject(evil, case.subject.model, case.subject.shape, names, case.subject.examples, case.subject.clean)
    other = Case(subject, case.image, target=3, truth=2)
    threat = threat_at("linf", 8, 64)
    *_, curve = curves.confidence(other, FGSM(), "linf")
    side = rivals.side(other, FGSM(), threat)
    for text in (
        panels.answer(other, other.one_step(threat), None),
        panels.curves(other, curve, curves.loss_line(other, "linf"), 8),
        panels.rivals([(side, curve), (side, curve)]),
        panels.error(evil),
    ):
        assert "<img src=x" not in text
        assert "&lt;img" in text


# Uploads


def test_an_upload_is_cut_and_scaled(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.full((60, 90, 3), 128, np.uint8)).save(path)
    image = read_upload(path, (1, 8, 8))
    assert image.shape == (1, 1, 8, 8)
    assert shown(image[0]).shape == (448, 448, 3)
    assert shown(torch.rand(3, 224, 200)).shape == (224, 200, 3)


def bomb() -> bytes:
    """A PNG of 60 000 x 60 000 pixels in a few bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (bomb(), "too large"),
        (b"\x89PNG\r\n\x1a\n broken", "not a PNG|broken"),
        (b"<svg onload='alert(1)'/>", "not a PNG"),
        (b"", "empty"),
        (b"GIF89a" + bytes(40), "not a PNG"),
    ],
)
def test_a_hostile_picture_gets_a_message_without_a_path(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "evil.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        read_upload(path, (3, 224, 224))
    assert str(tmp_path) not in str(caught.value)
    with pytest.raises(DataError, match="upload it again"):
        read_upload(tmp_path / "gone.png", (3, 8, 8))


# The shelf


def test_a_declared_model_comes_first_with_its_data(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\ndef net():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
    )
    config = merge(Config(), model=f"{tmp_path / 'net.py'}:net", data="digits", n=30)
    shelf = Shelf(config)
    subject = shelf[shelf.first]
    assert shelf.names[0] == "declared"
    assert subject.shape == (1, 8, 8)
    assert len(subject.examples) == 12
    case = Case(subject, subject.examples[0].open())
    assert case.one_step(threat_at("linf", 4, 64)).forwards == 1
    with pytest.raises(InputError, match="data"):
        Shelf(merge(Config(), model=f"{tmp_path / 'net.py'}:net"))["declared"]
    with pytest.raises(SparringError):
        shelf["nope"]


def test_asking_leaves_the_model_as_it_was(case: Case) -> None:
    with frozen_eval(case.subject.model):
        before = case.asked(case.image)
    assert not case.subject.model.training
    assert torch.equal(before, case.asked(case.image))


def test_files_are_written_once_and_not_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shop, "KEPT", 2)
    files = shop.Shop(tmp_path)
    first = Path(files.path(b"one", "a.png"))
    stamp = first.stat().st_mtime_ns
    assert files.path(b"one", "a.png") == str(first)
    assert first.stat().st_mtime_ns == stamp
    files.path(b"two", "a.png")
    files.path(b"three", "a.png")
    assert not first.exists()
    assert len(list(tmp_path.rglob("*.png"))) == 2


def test_the_page_listens_where_it_is_told_and_refuses_a_taken_port() -> None:
    with listening("127.0.0.1", 0) as (_, url):
        port = int(url.rsplit(":", 1)[1].strip("/"))
        with pytest.raises(InputError, match="--port 0"), listening("127.0.0.1", port):
            pass

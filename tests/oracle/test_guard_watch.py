"""What the watch tells apart: films from searches, drift from attacks, one client from many."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.helpers_guard import SHAPE, seeded
from torch import Tensor, nn

from sparring.attacks import HopSkipJump, Square
from sparring.defenses import Stack
from sparring.errors import DataError, InputError
from sparring.goal import Untargeted
from sparring.guard import Engine, Profile, calibrate
from sparring.guard.watch import benign
from sparring.guard.watch.prints import WIDTH, roughness, thumbnails
from sparring.guard.watch.profile import seen_of
from sparring.guard.watch.stream import LIKELY, Limits, Seen, Stream
from sparring.guard.watch.watcher import EVERYONE, Watcher
from sparring.threat import ThreatModel

LIMITS = Limits(radius=0.05, angle=0.99, margin=0.5, rough=0.1, rates=dict.fromkeys(LIKELY, 0.01))
EYE = np.eye(WIDTH, dtype=np.float32)


def seen(values: np.ndarray, margin: float = 1.0, label: int = 0, number: int = 0) -> Seen:
    return Seen(values.astype(np.float32), EYE[number % WIDTH], label, margin, 0.0, False)


def noise(seed: int, scale: float = 1.0) -> np.ndarray:
    return scale * np.random.Generator(np.random.Philox(key=seed)).random(64)


def signs(images: list[Seen], limits: Limits = LIMITS) -> list[dict[str, bool]]:
    return Stream().observe(images, limits)


@pytest.fixture(scope="module")
def engine(digits_net: nn.Module):
    made = Engine(Stack(digits_net), SHAPE)
    yield made
    made.close()


@pytest.fixture(scope="module")
def profile(engine: Engine, digits_data: tuple[Tensor, Tensor]) -> Profile:
    images = digits_data[0][:400]
    return calibrate(engine, benign.sessions(images, 160, seeded(0), (20, 80)), benign.scenes(images, seeded(1)))


def test_one_at_a_time_or_all_together_is_the_same() -> None:
    images = [seen(noise(i // 3, 1) + noise(100 + i, 0.02), margin=float(noise(i)[0])) for i in range(200)]
    stream = Stream()
    alone = [stream.observe([image], LIMITS)[0] for image in images]
    assert alone == signs(images)


def test_an_image_sent_again_says_nothing() -> None:
    assert signs([seen(noise(1))] * 3)[1:] == [{}, {}]


def test_a_bisection_is_seen_and_even_steps_are_not() -> None:
    low, high = noise(1), noise(2)
    path, a, b = [low, high], 0.0, 1.0
    for step in range(6):
        middle = (a + b) / 2
        path.append(low + middle * (high - low))
        a, b = (a, middle) if step % 2 else (middle, b)
    assert [one.get("bisect") for one in signs([seen(x) for x in path])][3:] == [True] * 5
    even = [seen(low + t * (high - low)) for t in np.linspace(0, 1, 12)]
    assert not any(one.get("bisect") for one in signs(even))


def test_a_random_search_goes_back_to_the_lowest_margin_and_a_film_does_not() -> None:
    generator = np.random.Generator(np.random.Philox(key=0))
    best, margin, images = noise(0), 1.0, []
    for _ in range(60):
        point = best + 0.01 * generator.standard_normal(64)
        value = margin + 0.1 * generator.standard_normal()
        images.append(seen(point, value))
        if value < margin:
            best, margin = point, value
    hits = [value for one in signs(images) for sign, value in one.items() if sign.startswith("search")]
    assert sum(hits) > 0.5 * len(hits) > 5
    film = [seen(noise(0) + 0.02 * generator.standard_normal(64), generator.random()) for _ in range(60)]
    hits = [value for one in signs(film) for sign, value in one.items() if sign.startswith("search/4")]
    assert sum(hits) < 0.3 * len(hits)


def test_evidence_is_the_sum_of_logarithms_and_never_negative() -> None:
    stream = Stream()
    limits = Limits(0.05, 0.99, 0.5, 0.1, {"flagged": 0.01})
    for shown in (False, False, True, True, False):
        stream.add({"flagged": shown}, limits.weights)
    likely = LIKELY["flagged"]
    want = 2 * math.log(likely / 0.01) + math.log((1 - likely) / 0.99)
    assert stream.evidence["flagged"] == pytest.approx(want)
    stream.add({"flagged": True}, limits.drifted({"flagged": 0.9}))
    assert stream.evidence["flagged"] < want + 0.1, "what most clients show says little of one"


def test_roughness_sees_noise_and_not_texture() -> None:
    calm = torch.zeros(1, 1, 28, 28)
    texture = calm.clone()
    texture[:, :, 8:20, 8:20] = torch.rand(12, 12, generator=seeded(0))
    noisy = (calm + 0.05 * torch.randn(calm.shape, generator=seeded(1))).clamp(0, 1)
    assert roughness(texture)[0] == 0
    assert 0.01 < roughness(noisy)[0] < 0.05
    assert thumbnails(torch.full((2, 3, 40, 30), 0.5)).shape == (2, 256)


def run(profile: Profile, images: list[Seen]) -> tuple[int | None, list[str]]:
    """After how many images the first alarm, and which."""
    watcher = Watcher(profile)
    for number, image in enumerate(images, 1):
        alarms = watcher.observe(["c"], [image], 0.0)
        if alarms:
            return number, [alarm.kind for alarm in alarms]
    return None, []


def queries(attack, net: nn.Module, image: Tensor, label: Tensor, eps: float) -> Tensor:
    asked: list[Tensor] = []

    def model(images: Tensor) -> Tensor:
        asked.extend(images.detach().clone().split(1))
        return net(images)

    attack(model, image, Untargeted(label), ThreatModel("linf", eps))
    return torch.cat(asked)


@pytest.mark.parametrize("attack", [Square(queries=250), HopSkipJump(queries=250)], ids=str)
def test_attacks_raise_alarms(profile, engine, digits_net, digits_data, attack) -> None:
    images, labels = digits_data
    right = (digits_net(images).argmax(1) == labels).nonzero().flatten()[-8:]
    found = []
    for row in right.tolist():
        asked = queries(attack, digits_net, images[row : row + 1], labels[row : row + 1], 0.02)
        if len(asked) > 20:  # it has not succeeded at once
            found.append(run(profile, seen_of(engine(asked)))[0])
    assert len(found) >= 5
    assert all(alarm is not None for alarm in found), found


def test_benign_sessions_of_other_images_raise_none(profile, engine, digits_data) -> None:
    fresh = benign.sessions(digits_data[0][400:], 80, seeded(1), (20, 80))
    alarms = [run(profile, seen_of(engine(images))) for images in fresh]
    assert [alarm for alarm in alarms if alarm[0]] == []


def test_an_attacker_with_many_names_is_watched_as_one(profile, engine, digits_net, digits_data) -> None:
    images, labels = digits_data
    row = int((digits_net(images).argmax(1) == labels).nonzero()[-1])
    asked = seen_of(
        engine(queries(HopSkipJump(queries=250), digits_net, images[row : row + 1], labels[row : row + 1], 0.02))
    )
    watcher, crowd = Watcher(profile), set()
    for number, image in enumerate(asked):
        crowd |= {alarm.client for alarm in watcher.observe([f"client {number % 50}"], [image], 0.0)}
    assert any(name.startswith("crowd-") for name in crowd)


def test_the_same_picture_from_many_clients_is_no_crowd(profile, engine, digits_data) -> None:
    (image,) = seen_of(engine(digits_data[0][:1]))
    watcher = Watcher(profile)
    assert all(watcher.observe([f"client {n}"], [image], 0.0) == [] for n in range(300))


def shown(profile: Profile, low: bool, number: int) -> Seen:
    margin = profile.limits.margin + (-1e-3 if low else 1e-3)
    return Seen(noise(number, 1).repeat(1).astype(np.float32), EYE[number % WIDTH], 0, margin, 0.0, False)


def test_a_shift_in_most_clients_is_drift_and_in_one_an_attack(profile) -> None:
    generator = np.random.Generator(np.random.Philox(key=5))
    everyone, one = Watcher(profile), Watcher(profile)
    seen_everyone: set[tuple[str, str]] = set()
    seen_one: set[tuple[str, str]] = set()
    for step in range(60):
        for client in range(12):
            number = step * 12 + client
            image = shown(profile, generator.random() < 0.9, number)
            seen_everyone |= {(a.kind, a.client) for a in everyone.observe([str(client)], [image], 0.0)}
            attacker = client == 0
            image = shown(profile, generator.random() < (0.95 if attacker else 0.15), number)
            seen_one |= {(a.kind, a.client) for a in one.observe([str(client)], [image], 0.0)}
    assert ("drift", EVERYONE) in seen_everyone
    assert ("low_margin", "0") in seen_one
    assert ("drift", EVERYONE) not in seen_one
    late = everyone.evidence("3")["low_margin"]
    assert late <= profile.alarms["low_margin"] * 1.5, "the drift explains it"


def test_a_profile_comes_back_as_it_was_saved(profile, tmp_path) -> None:
    profile.save(tmp_path / "p.json")
    assert Profile.load(tmp_path / "p.json") == profile
    for text in ("", "{}", "[]", '{"schema": 99}', "\0"):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(DataError):
            Profile.load(tmp_path / "bad.json")
    with pytest.raises(DataError):
        Profile.load(tmp_path / "none.json")


def test_too_few_sessions_teach_nothing(engine, digits_data) -> None:
    with pytest.raises(InputError, match="too few"):
        calibrate(engine, [digits_data[0][:30]] * 5)

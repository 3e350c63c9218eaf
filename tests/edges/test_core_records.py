"""Records outlive kills, full disks and damage, and never answer for another question."""

from __future__ import annotations

import errno
import gc
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers_core import Linear, pictures
from torch import Tensor

import sparring as sp
from sparring.errors import InputError, RecordsError, SparringError
from sparring.evaluation import Evaluation, EvaluationInterrupted, Progress, evaluate, task

ATTACKS = ["random_noise:draws=2", "fgsm", "pgd:steps=2"]
IMAGES = pictures(40, 1, 4, 4)
NET = Linear(16)
LABELS = NET(IMAGES).argmax(1).detach()
LABELS[::9] = (LABELS[::9] + 1) % 3
PROBE = 10
"""Images that identifying the model costs."""


class Model:
    """Counts the images it sees. `scale` multiplies the logits."""

    def __init__(self, scale: float = 1.0, net: Linear = NET) -> None:
        self.seen, self.scale, self.net = 0, scale, net

    def __call__(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return self.scale * self.net(images)


@pytest.fixture(autouse=True)
def chunks_of_8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "chunk_size", lambda *_: 8)


def run(out: Path | None, model: Any = None, **changes: Any) -> Evaluation:
    given: dict[str, Any] = {
        "images": IMAGES,
        "labels": LABELS,
        "threat": sp.ThreatModel("linf", 0.05),
        "attacks": ATTACKS,
        **changes,
    }
    images, labels, threat = (given.pop(name) for name in ("images", "labels", "threat"))
    return evaluate(model or Model(), images, labels, threat, out=out, **given)


def assert_same(found: Evaluation, whole: Evaluation) -> None:
    assert found.complete
    assert found.records == whole.records
    assert list(found.adversarials) == list(whole.adversarials)
    for index in whole.adversarials:
        assert torch.equal(found.adversarials[index], whole.adversarials[index]), index


def folder_of(out: Path) -> Path:
    (found,) = [path for path in out.iterdir() if path.is_dir()]
    return found


def shards(out: Path) -> list[Path]:
    return sorted(folder_of(out).glob("adversarials/*.safetensors"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "chunk_size", lambda *_: 8)
        out = tmp_path_factory.mktemp("finished")
        found = run(out)
        assert {r.broken_by for r in found.records} >= {None, "fgsm"}
    return out


def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def script(name: str) -> dict[str, Any]:
    path = Path(__file__).parents[1] / "helpers_core_kills.py"
    done = subprocess.run([sys.executable, str(path), name], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_killed_runs_resume_to_the_same_records() -> None:
    found = script("kills")
    assert found["kills"] >= 12
    assert found["wrong"] == []
    assert 0 < found["broken"] < found["images"]


def test_a_full_disk_is_said_and_what_was_finished_is_kept() -> None:
    found = script("full")
    assert found["refused"] >= 3
    assert found["wrong"] == []


def test_a_finished_run_asks_the_model_nothing_again(finished: Path, tmp_path: Path) -> None:
    model = Model()
    found = run(copied(finished, tmp_path), model)
    assert model.seen == PROBE
    assert_same(found, run(None))


def test_a_finished_run_is_reused_with_lazy_images_and_another_batch_size(finished: Path, tmp_path: Path) -> None:
    model = Model()
    run(copied(finished, tmp_path), model, batch_size=3)
    assert model.seen == PROBE


def test_a_file_cut_at_any_byte_resumes(finished: Path, tmp_path: Path) -> None:
    whole = run(None)
    out = copied(finished, tmp_path)
    path = folder_of(out) / "records.jsonl"
    content = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == 10]
    start = next(end for end in ends if end >= len(content) - 2500)
    offsets = {0, 1, *range(start, len(content), 97)}
    offsets |= {end + step for end in ends if end > start for step in (-1, 0, 1)}
    for offset in sorted(o for o in offsets if o <= len(content)):
        path.write_bytes(content[:offset])
        assert_same(run(out), whole)
        again = Model()
        assert_same(run(out, again), whole)
        assert again.seen == PROBE, "what was done once more is kept"
    for tail in (b"\0" * 300, b'{"index": 3', b"{}", b"\xff\xfe", b"[1, 2]"):
        path.write_bytes(content[:-700] + tail)
        assert_same(run(out), whole)


def damaged(content: bytes) -> dict[str, bytes]:
    lines = content.splitlines(keepends=True)
    third = next(i for i, line in enumerate(lines) if b'"chunk": 2' in line)
    return {
        "garbage in a line": b"".join([*lines[:5], b"garbage\n", *lines[6:]]),
        "a line lost": b"".join([*lines[:5], *lines[6:]]),
        "a line twice": b"".join([*lines[:5], lines[4], *lines[5:]]),
        "a field lost": content.replace(b'"met"', b'"mat"', 1),
        "a closing line lost": b"".join([*lines[:third], *lines[third + 1 :]]),
        "zeros in the middle": content[:900] + b"\0" * 50 + content[950:],
        "another type": b"".join([*lines[:5], b"17\n", *lines[6:]]),
    }


@pytest.mark.parametrize("kind", list(damaged(b'{"chunk": 2}\n' * 10)))
def test_damage_in_the_middle_is_said_and_never_used(finished: Path, tmp_path: Path, kind: str) -> None:
    out = copied(finished, tmp_path)
    path = folder_of(out) / "records.jsonl"
    content = damaged(path.read_bytes())[kind]
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # open files have a test of their own, below
        with pytest.raises(RecordsError, match=r"damaged at line \d+.*delete") as caught:
            run(out)
        del caught
        gc.collect()
    assert path.read_bytes() == content, "the evidence is kept"


def test_a_refused_folder_is_let_go(finished: Path, tmp_path: Path) -> None:
    out = copied(finished, tmp_path)
    path = folder_of(out) / "records.jsonl"
    content = path.read_bytes()
    path.write_bytes(damaged(content)["garbage in a line"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(RecordsError) as kept:
            run(out)
        path.write_bytes(content)
        try:
            run(out)
        finally:
            del kept
            gc.collect()
    assert not [w for w in caught if issubclass(w.category, ResourceWarning)]


def other_net() -> Linear:
    net = Linear(16)
    with torch.no_grad():
        net.weight[0, 0] += 1e-3
    return net


def one_pixel() -> Tensor:
    images = IMAGES.clone()
    images[20, 0, 1, 1] = torch.nextafter(images[20, 0, 1, 1], torch.tensor(0.5))
    return images


def one_label() -> Tensor:
    labels = LABELS.clone()
    labels[11] = (labels[11] + 1) % 3
    return labels


CHANGES: dict[str, dict[str, Any]] = {
    "eps": {"threat": sp.ThreatModel("linf", 0.0501)},
    "norm": {"threat": sp.ThreatModel("l2", 0.05)},
    "bounds": {"threat": sp.ThreatModel("linf", 0.05, bounds=(-1, 1))},
    "mask": {"threat": sp.ThreatModel("linf", 0.05, mask=torch.ones(4, 4, dtype=torch.bool))},
    "seed": {"seed": 1},
    "label": {"labels": one_label()},
    "pixel": {"images": one_pixel()},
    "targets": {"targets": torch.zeros(40).long()},
    "attacks": {"attacks": [*ATTACKS[:2], "pgd:steps=3"]},
    "order of attacks": {"attacks": [ATTACKS[0], ATTACKS[2], ATTACKS[1]]},
    "weights": {"model": Model(net=other_net())},
    "scaled logits": {"model": Model(scale=100.0)},
    "order of images": {"images": IMAGES.flip(0), "labels": LABELS.flip(0)},
    "fewer images": {"images": IMAGES[:39], "labels": LABELS[:39]},
}


@pytest.mark.parametrize("what", list(CHANGES))
def test_another_question_gets_its_own_answer(finished: Path, tmp_path: Path, what: str) -> None:
    changes = dict(CHANGES[what])
    model = changes.pop("model", None) or Model()
    out = copied(finished, tmp_path)
    model.seen = 0
    found = run(out, model, **changes)
    assert model.seen > PROBE
    assert_same(found, run(None, model, **changes))
    again = Model(model.scale, model.net)
    assert_same(run(out, again, **changes), found)
    assert again.seen == PROBE
    assert_same(run(out), run(None))


def test_other_targets_get_their_own_answer(tmp_path: Path) -> None:
    first, second = (LABELS + 1) % 3, (LABELS + 2) % 3
    run(tmp_path, targets=first)
    assert_same(run(tmp_path, targets=second), run(None, targets=second))
    assert_same(run(tmp_path, targets=first), run(None, targets=first))


def test_two_losses_with_one_name_get_their_own_answers(tmp_path: Path) -> None:
    """Two lambdas have the same qualified name."""
    up, down = (lambda z, goal: -z[:, 0]), (lambda z, goal: z[:, 0])
    for loss in (up, down):
        attacks = [sp.attacks.FGSM(loss=loss)]
        try:
            found = run(tmp_path, attacks=attacks)
        except SparringError:
            continue
        assert_same(found, run(None, attacks=attacks))


def test_one_changed_label_reuses_nothing(finished: Path, tmp_path: Path) -> None:
    model = Model()
    fresh = Model()
    run(None, fresh)
    run(copied(finished, tmp_path), model, labels=one_label())
    assert model.seen > 0.95 * fresh.seen


def flipped(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[-1] ^= 0x40
    return bytes(changed)


DAMAGE = {
    "missing": lambda content: None,
    "empty": lambda content: b"",
    "cut": lambda content: content[:-5],
    "garbage": lambda content: b"\xff" * len(content),
    "one bit of a pixel": flipped,
    "one bit of the indices": lambda content: content.replace(b"\x01\0\0\0\0\0\0\0", b"\x02\0\0\0\0\0\0\0", 1),
}


@pytest.mark.parametrize("kind", list(DAMAGE))
def test_a_damaged_shard_is_done_again(finished: Path, tmp_path: Path, kind: str) -> None:
    out = copied(finished, tmp_path)
    for path in shards(out):
        content = DAMAGE[kind](path.read_bytes())
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
    assert_same(run(out), run(None))


def test_a_shard_that_vanishes_while_it_is_read_is_a_clear_error(tmp_path: Path) -> None:
    found = run(tmp_path)
    shutil.rmtree(folder_of(tmp_path) / "adversarials")
    with pytest.raises(RecordsError, match="cannot read"):
        found.adversarials[next(iter(found.adversarials))]
    with pytest.raises(KeyError):
        found.adversarials[10_000]


def test_a_shard_of_another_run_is_never_taken_for_this_one(tmp_path: Path) -> None:
    """Same key, other labels: the second run dies after writing a shard and before its lines."""
    attacks = ["fgsm"]
    images, labels = IMAGES[:8], LABELS[:8]
    whole = run(None, images=images, labels=labels, attacks=attacks)
    wanted = None
    for i in range(8):
        for j in range(8):
            for k in (1, 2):
                other = labels.clone()
                other[i], other[j] = (other[i] + k) % 3, (other[j] + k) % 3
                found = run(None, images=images, labels=other, attacks=attacks)
                if len(found.adversarials) == len(whole.adversarials) and list(found.adversarials) != list(
                    whole.adversarials
                ):
                    wanted = other
    assert wanted is not None
    run(tmp_path, images=images, labels=labels, attacks=attacks)
    first = folder_of(tmp_path)
    records = (first / "records.jsonl").read_bytes()
    run(tmp_path, images=images, labels=wanted, attacks=attacks)
    (first / "records.jsonl").write_bytes(records)
    assert_same(run(tmp_path, images=images, labels=labels, attacks=attacks), whole)


def test_relative_folders_survive_a_change_of_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = run(Path("here"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert found.adversarials[next(iter(found.adversarials))].shape == (1, 4, 4)


def test_a_second_run_on_the_same_folder_is_refused_while_the_first_works(tmp_path: Path) -> None:
    refused: list[str] = []

    def meanwhile(p: Progress) -> None:
        if (p.stage, p.done) == ("fgsm", 16):
            try:
                run(tmp_path)
            except RecordsError as error:
                refused.append(str(error))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        first = run(tmp_path, progress=meanwhile)
        gc.collect()
    assert len(refused) == 1
    assert "in use" in refused[0]
    assert_same(first, run(None))
    assert_same(run(tmp_path), first)


def test_a_second_process_is_refused_too(tmp_path: Path) -> None:
    code = "import fcntl, sys; fcntl.flock(open(sys.argv[1], 'a+b'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    outcomes: list[int] = []

    def meanwhile(p: Progress) -> None:
        if (p.stage, p.done) == ("fgsm", 16):
            path = str(folder_of(tmp_path) / "records.jsonl")
            outcomes.append(subprocess.run([sys.executable, "-c", code, path], capture_output=True).returncode)

    run(tmp_path, progress=meanwhile)
    assert outcomes == [1]


def test_a_refused_second_run_leaves_no_open_file(tmp_path: Path) -> None:
    caught: list[warnings.WarningMessage] = []

    def meanwhile(p: Progress) -> None:
        if (p.stage, p.done) == ("fgsm", 16):
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                with pytest.raises(RecordsError):
                    run(tmp_path)
                gc.collect()
            caught.extend(seen)

    run(tmp_path, progress=meanwhile)
    assert not [str(w.message) for w in caught]


def test_a_folder_that_cannot_be_written_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        with pytest.raises(SparringError, match="cannot"):
            run(out)


@pytest.mark.parametrize("after", [1, 2, 5, 9, 14])
def test_a_failing_sync_is_said_and_what_was_finished_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    real, calls = os.fsync, 0

    def full(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        run(tmp_path)
    monkeypatch.setattr(os, "fsync", real)
    assert_same(run(tmp_path), run(None))
    assert not list(folder_of(tmp_path).rglob(".*")), "no temporary files stay"


@pytest.mark.parametrize("shape", [(40, 16), (40, 1, 4, 4)], ids=str)
def test_resuming_an_interrupted_targeted_run(tmp_path: Path, shape: tuple[int, ...]) -> None:
    changes: dict[str, Any] = {"images": IMAGES.view(shape), "targets": (LABELS + 1) % 3}

    def stop(p: Progress) -> None:
        if (p.stage, p.done) == ("fgsm", 24):
            raise KeyboardInterrupt

    with pytest.raises(EvaluationInterrupted):
        run(tmp_path, progress=stop, **changes)
    assert_same(run(tmp_path, **changes), run(None, **changes))


def test_a_module_with_state_that_is_no_tensor_can_be_recorded(tmp_path: Path) -> None:
    class Stateful(Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"version": 1}

        def set_extra_state(self, state: object) -> None: ...

    model = Stateful(16).train()
    found = run(tmp_path, model)
    assert_same(found, run(None, model))
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def test_a_changed_bit_in_the_records_is_no_verdict(tmp_path: Path) -> None:
    """One verdict turned round by hand, in a line that still parses."""
    model, images, labels = Linear(16, 3, seed=1), pictures(40, 1, 4, 4), torch.zeros(40, dtype=torch.int64)
    threat = sp.ThreatModel("linf", 0.05)
    sp.evaluate(model, images, labels, threat, attacks=["fgsm"], out=tmp_path)
    (path,) = tmp_path.glob("*/records.jsonl")
    text = path.read_text()
    for old, new in (
        ('"met": false', '"met": true'),
        ('"prediction": 1', '"prediction": 0'),
        ('"margin": ', '"margin": 9'),
    ):
        assert old in text
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(RecordsError, match="damaged"):
            sp.evaluate(model, images, labels, threat, attacks=["fgsm"], out=tmp_path)
    path.write_text("[" * 100_000 + "\n" + text)
    with pytest.raises(RecordsError, match="damaged"):
        sp.evaluate(model, images, labels, threat, attacks=["fgsm"], out=tmp_path)

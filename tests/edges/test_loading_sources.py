"""Folders, archives, idx files and labels that users bring."""

import gzip
import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from sparring.errors import DataError
from sparring.loading import LazyImages, load_data

DRAWS = np.random.RandomState(0)
PICTURES = DRAWS.randint(0, 256, (6, 4, 5, 3), dtype=np.uint8)
LABELS = np.array([0, 2, 1, 1, 0, 2])


def save(path, array=PICTURES[0]):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **({"lossless": True} if path.suffix == ".webp" else {}))


def tensor(arrays):
    return torch.from_numpy(np.asarray(arrays)).permute(0, 3, 1, 2) / 255


@pytest.fixture
def pets(tmp_path):
    """Three classes of two pictures, written in another order than they are read."""
    for i, name in enumerate(["dog/b.png", "cat/1.png", "emu/x.webp", "cat/0.png", "dog/a.png", "emu/y.PNG"]):
        save(tmp_path / "pets" / name, PICTURES[i])
    return tmp_path / "pets"


# Folders


def test_a_folder_of_class_folders(pets):
    (pets / ".hidden").mkdir()
    (pets / "cat" / ".DS_Store").touch()
    (pets / "README.txt").touch()
    data = load_data(pets)
    assert data.files == ("cat/0.png", "cat/1.png", "dog/a.png", "dog/b.png", "emu/x.webp", "emu/y.PNG")
    assert data.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.class_names == ("cat", "dog", "emu")
    assert torch.equal(data.images, tensor(PICTURES[[3, 1, 4, 0, 2, 5]]))


def test_lazy_pictures_are_read_when_looked_at(pets):
    data = load_data(pets, lazy=True, size=(2, 2))
    assert isinstance(data.images, LazyImages)
    assert data.images.shape == (6, 3, 2, 2)
    (pets / "dog" / "a.png").unlink()
    assert data.images[0:2].shape == (2, 3, 2, 2)
    with pytest.raises(DataError, match=r"dog/a\.png does not exist"):
        data.images[2:3]


def test_n_takes_some_of_every_class_and_reads_only_those(pets):
    data = load_data(pets, n=3, seed=4)
    assert sorted(data.labels.tolist()) == [0, 1, 2]
    (left,) = {str(p.relative_to(pets)) for p in pets.glob("cat/*")} - set(data.files)
    (pets / left).write_bytes(b"broken")
    assert torch.equal(load_data(pets, n=3, seed=4).images, data.images)
    with pytest.raises(DataError, match="cat/"):
        load_data(pets)


def test_sizes_must_agree_unless_one_is_given(pets):
    save(pets / "dog" / "b.png", PICTURES[0][:3])
    with pytest.raises(DataError, match=r"cat/0\.png is 4 x 5, .*dog/b\.png is 3 x 5 \(height x width\); give size="):
        load_data(pets)
    assert load_data(pets, size=4).images.shape == (6, 3, 4, 4)


def test_grey_sets_have_one_channel_and_mixed_ones_three(pets):
    grey = pets.parent / "grey"
    for name in ("a/0.png", "b/0.png"):
        save(grey / name, PICTURES[0, :, :, 0])
    assert load_data(grey).images.shape == (2, 1, 4, 5)
    assert load_data(grey, channels=3).images.shape == (2, 3, 4, 5)
    save(grey / "b/0.png")
    assert load_data(grey).images.shape == (2, 3, 4, 5)
    assert load_data(pets, channels=1).images.shape == (6, 1, 4, 5)


def test_train_and_test_folders_are_splits(pets, tmp_path):
    pets.rename(tmp_path / "train")
    save(tmp_path / "val" / "cat" / "7.png", PICTURES[5])
    assert len(load_data(tmp_path, split="train").labels) == 6
    assert load_data(tmp_path).files == ("cat/7.png",)
    (tmp_path / "train").rename(tmp_path / "archive")
    with pytest.raises(DataError, match=r"has val/ but no folder for split='train'"):
        load_data(tmp_path, split="train")


def test_a_class_may_be_called_train(tmp_path):
    save(tmp_path / "train" / "0.png")
    save(tmp_path / "plane" / "0.png")
    assert load_data(tmp_path).class_names == ("plane", "train")


def test_one_set_has_no_training_part(pets):
    with pytest.raises(DataError, match="one set without a training part: leave split out, or put the class folders"):
        load_data(pets, split="train")


def test_classes_say_which_number_a_folder_has(pets):
    data = load_data(pets, classes=["emu", "owl", "dog", "cat"])
    assert data.labels.tolist() == [3, 3, 2, 2, 0, 0]
    assert data.class_names == ("emu", "owl", "dog", "cat")
    with pytest.raises(DataError, match=r"emu is none of the classes given with classes=.*did you mean 'emus'"):
        load_data(pets, classes=["cat", "dog", "emus"])
    with pytest.raises(DataError, match="emu stands for several classes"):
        load_data(pets, classes=["cat", "dog", "emu", "emu"])


def test_numbered_folders_whose_order_is_in_doubt(tmp_path):
    for name in ("0", "1", "2"):
        save(tmp_path / "fine" / name / "0.png")
    assert load_data(tmp_path / "fine").labels.tolist() == [0, 1, 2]
    for name in ("0", "1", "10", "2"):
        save(tmp_path / "doubt" / name / "0.png")
    with pytest.raises(DataError, match=r"are numbers \(0, 1, 10, 2, \.\.\.\) but, sorted by name, not 0, 1, 2"):
        load_data(tmp_path / "doubt")
    numbers = load_data(tmp_path / "doubt", classes=[str(i) for i in range(11)])
    assert numbers.labels.tolist() == [0, 1, 10, 2]


def test_a_flat_folder_with_labels(tmp_path):
    for i in range(3):
        save(tmp_path / "flat" / f"{i}.png", PICTURES[i])
    (tmp_path / "labels.txt").write_text("4\n0\n2\n")
    for labels in ([4, 0, 2], torch.tensor([4, 0, 2]), tmp_path / "labels.txt"):
        data = load_data(tmp_path / "flat", labels=labels)
        assert data.labels.tolist() == [4, 0, 2]
        assert torch.equal(data.images, tensor(PICTURES[:3]))
    with pytest.raises(DataError, match="2 labels for 3 images; give exactly one label per image"):
        load_data(tmp_path / "flat", labels=[1, 2])
    with pytest.raises(DataError, match="one folder of pictures per class, but it holds 3 pictures and no folders"):
        load_data(tmp_path / "flat")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda p: [f.unlink() for f in (p / "cat").iterdir()],
            r"cat holds no pictures; add some or remove the folder",
        ),
        (
            lambda p: (p / "cat" / "notes.txt").touch(),
            r"notes\.txt is not a PNG, JPEG or WebP picture; only files ending",
        ),
        (lambda p: (p / "cat" / "old.gif").touch(), r"old\.gif is not a PNG"),
        (lambda p: (p / "cat" / "more").mkdir(), r"cat/more is a folder"),
        (lambda p: save(p / "stray.png"), r"stray\.png lies beside the class folders"),
        (lambda p: (p / "emu" / "y.PNG").write_bytes(b"\x89PNG\r\n\x1a\nrubbish"), r"emu/y\.PNG is"),
    ],
)
def test_spoilt_folders_are_named(pets, spoil, message):
    spoil(pets)
    with pytest.raises(DataError, match=message):
        load_data(pets)


def test_an_empty_folder(tmp_path):
    with pytest.raises(DataError, match="needs one folder of pictures per class, but it is empty"):
        load_data(tmp_path)


# Archives


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    ("keys", "split"),
    [
        (("images", "labels"), "test"),
        (("x", "y"), "test"),
        (("X_test", "Y_test"), "test"),
        (("x_train", "y_train"), "train"),
        (("test_images", "test_labels"), "test"),
    ],
)
def test_archives(tmp_path, write, keys, split):
    write(tmp_path / "d.npz", **{keys[0]: PICTURES, keys[1]: LABELS}, unrelated=np.ones(3))
    data = load_data(tmp_path / "d.npz", split=split)
    assert torch.equal(data.images, tensor(PICTURES))
    assert torch.equal(data.labels, torch.from_numpy(LABELS))


def test_a_split_wins_over_the_whole(tmp_path):
    np.savez(tmp_path / "d.npz", x=PICTURES, y=LABELS, x_test=PICTURES[:2], y_test=LABELS[:2])
    assert len(load_data(tmp_path / "d.npz").labels) == 2
    with pytest.raises(DataError, match="one set without a training part: leave split out, or store the keys x_train"):
        load_data(tmp_path / "d.npz", split="train")


GREY = PICTURES[..., 0]


@pytest.mark.parametrize(
    ("array", "shape"),
    [
        (GREY, (6, 1, 4, 5)),
        (GREY[..., None], (6, 1, 4, 5)),
        (GREY[:, None], (6, 1, 4, 5)),
        (PICTURES.transpose(0, 3, 1, 2), (6, 3, 4, 5)),
        (np.asfortranarray(PICTURES), (6, 3, 4, 5)),
        ((PICTURES / 255).astype(np.float64), (6, 3, 4, 5)),
        ((PICTURES / 255).astype(">f4"), (6, 3, 4, 5)),
        ((PICTURES / 255).astype(np.float16), (6, 3, 4, 5)),
    ],
)
def test_layouts_and_number_types(tmp_path, array, shape):
    np.savez(tmp_path / "d.npz", x=array, y=LABELS)
    images, _ = load_data(tmp_path / "d.npz")
    wanted = tensor(PICTURES) if shape[1] == 3 else tensor(PICTURES)[:, :1]
    assert images.shape == shape
    assert torch.allclose(images, wanted, atol=1e-3 if array.dtype == np.float16 else 1e-6)
    assert images.is_contiguous()


def test_other_numbers_of_channels_are_said(tmp_path):
    np.savez(tmp_path / "d.npz", x=DRAWS.rand(3, 8, 8, 4), y=[0, 1, 2])
    with pytest.raises(
        DataError, match=r"with 1 or 3 channels .*got \(3, 8, 8, 4\); transpose the array, or say channels="
    ):
        load_data(tmp_path / "d.npz")
    assert load_data(tmp_path / "d.npz", channels=4).images.shape == (3, 4, 8, 8)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (PICTURES.astype(np.float32), r"must lie in \[0, 1\], these span \[0, 255\]; divide by 255 first"),
        (PICTURES / 100 - 1, r"these span \[-1, 1\.55\]; store them before normalisation .*mean="),
        (np.full((6, 4, 5), np.nan), "hold NaN or infinity"),
        (PICTURES.astype(np.int64), "must be uint8 from 0 to 255 or floats"),
        (PICTURES > 3, "got bool"),
        (np.zeros((6, 4)), r"images must have shape \(N, H, W\).*got \(6, 4\)"),
        (np.zeros((6, 0, 4)), r"no empty dimension, got \(6, 0, 4\)"),
        (np.float32(3), "got a single number"),
        (PICTURES[:5], "6 labels for 5 images"),
        (np.array([None] * 6), r"\[x\.npy\] holds pickled Python objects, which are never unpacked"),
        (np.array(["a"] * 6).reshape(6, 1, 1), "got <U1"),
    ],
)
def test_bad_images(tmp_path, images, message):
    np.savez(tmp_path / "d.npz", x=images, y=LABELS)
    with pytest.raises(DataError, match=message):
        load_data(tmp_path / "d.npz")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            np.eye(6),
            r"one class index per image, got \(6, 6\); turn one-hot rows into class indices with \.argmax\(1\)",
        ),
        (LABELS.astype(float), r"must be whole numbers, got float64; convert class indices with \.astype\('int64'\)"),
        (LABELS - 1, "must be class indices >= 0, got -1"),
        (LABELS[:4], "4 labels for 6 images"),
        (LABELS > 1, "must be whole numbers, got bool"),
        (np.full(6, 2**63, dtype=np.uint64), "must be class indices, got 9223372036854775808"),
        (np.int64(3), r"got \(\)"),
    ],
)
def test_bad_labels(tmp_path, labels, message):
    np.savez(tmp_path / "d.npz", x=PICTURES, y=labels)
    with pytest.raises(DataError, match=message):
        load_data(tmp_path / "d.npz")


def test_column_labels_and_class_names(tmp_path):
    np.savez(tmp_path / "d.npz", x=PICTURES, y=LABELS[:, None].astype(np.uint8), class_names=["a", "b", "c"])
    data = load_data(tmp_path / "d.npz")
    assert data.labels.tolist() == LABELS.tolist()
    assert data.class_names == ("a", "b", "c")
    np.savez(tmp_path / "d.npz", x=PICTURES, y=LABELS, class_names=["a", "b"])
    with pytest.raises(DataError, match="has the label 2 but only 2 class names"):
        load_data(tmp_path / "d.npz")


def test_missing_keys_and_labels_from_elsewhere(tmp_path):
    np.savez(tmp_path / "d.npz", images=PICTURES, name=LABELS)
    with pytest.raises(DataError, match=r"has the keys images, name; for split='test' expected images and labels"):
        load_data(tmp_path / "d.npz")
    np.save(tmp_path / "l.npy", LABELS)
    assert load_data(tmp_path / "d.npz", labels=tmp_path / "l.npy").labels.tolist() == LABELS.tolist()


def test_an_empty_archive_and_an_empty_set(tmp_path):
    np.savez(tmp_path / "none.npz")
    with pytest.raises(DataError, match="has the keys none"):
        load_data(tmp_path / "none.npz")
    np.savez(tmp_path / "zero.npz", x=PICTURES[:0], y=LABELS[:0])
    with pytest.raises(DataError, match="is empty: there is not a single image in it"):
        load_data(tmp_path / "zero.npz")


def member(path, content, compress=zipfile.ZIP_DEFLATED, name="x.npy"):
    with zipfile.ZipFile(path, "w", compress) as archive:
        archive.writestr(name, content)
        labels = io.BytesIO()
        np.save(labels, LABELS)
        archive.writestr("y.npy", labels.getvalue())


def header(shape):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def test_a_shape_beyond_the_limit_is_refused_unread(tmp_path):
    member(tmp_path / "d.npz", header((10**9, 100, 100)))
    with pytest.raises(DataError, match=r"\(1000000000, 100, 100\), 10000000000000 bytes unpacked; at most 8589934592"):
        load_data(tmp_path / "d.npz")


def test_a_member_that_unpacks_too_large_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr("sparring.loading.limits.MAX_BYTES", 10**5)
    member(tmp_path / "d.npz", header((6, 4, 5)) + b"\0" * 10**6)
    with pytest.raises(DataError, match=r"\[x\.npy\] declares the shape \(1000128,\), 1000128 bytes unpacked; at most"):
        load_data(tmp_path / "d.npz")


@pytest.mark.parametrize(("there", "told"), [(100, "needs 120 bytes, 100 are there"), (130, "needs 120 bytes, 130")])
def test_a_header_that_lies_about_the_data(tmp_path, there, told):
    member(tmp_path / "d.npz", header((6, 4, 5)) + b"\0" * there)
    with pytest.raises(DataError, match=told):
        load_data(tmp_path / "d.npz")


def test_damaged_archives(tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(DataError, match=r"text\.npz is not a readable \.npz archive: File is not a zip file"):
        load_data(tmp_path / "text.npz")
    np.savez(tmp_path / "d.npz", x=PICTURES, y=LABELS)
    content = bytearray((tmp_path / "d.npz").read_bytes())
    content[300] ^= 255
    (tmp_path / "flip.npz").write_bytes(content)
    with pytest.raises(DataError, match="Bad CRC-32"):
        load_data(tmp_path / "flip.npz")
    (tmp_path / "cut.npz").write_bytes(content[:200])
    with pytest.raises(DataError, match=r"cut\.npz is not a readable"):
        load_data(tmp_path / "cut.npz")


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_large_uncompressed_arrays_are_mapped(tmp_path, monkeypatch, write):
    monkeypatch.setattr("sparring.loading.npz.EAGER_BYTES", 10)
    opened = []
    monkeypatch.setattr(np, "memmap", lambda *a, real=np.memmap: opened.append(a) or real(*a))
    for array in (PICTURES, np.asfortranarray(PICTURES / 255)):
        write(tmp_path / "d.npz", x=array, y=LABELS)
        data = load_data(tmp_path / "d.npz", lazy=True)
        assert torch.allclose(data.images[:], tensor(PICTURES))
        assert torch.allclose(data.images[[5, 0]], tensor(PICTURES[[5, 0]]))
        assert data.labels.tolist() == LABELS.tolist()
    assert len(opened) == (4 if write is np.savez else 0)


# idx


def idx_bytes(array, kind=8):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


@pytest.fixture
def idx(tmp_path):
    for prefix, n in (("train", 6), ("t10k", 4)):
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(idx_bytes(GREY[:n]))
        (tmp_path / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(LABELS[:n])))
    return tmp_path


def test_idx_folder_and_file(idx):
    images, labels = load_data(idx, split="train")
    assert torch.equal(images, torch.from_numpy(GREY)[:, None] / 255)
    assert labels.tolist() == LABELS.tolist()
    assert len(load_data(idx).labels) == 4
    same = load_data(idx / "train-images-idx3-ubyte")
    assert torch.equal(same.images, images)
    given = load_data(idx / "train-images-idx3-ubyte", labels=idx / "train-labels-idx1-ubyte.gz", n=3)
    assert torch.equal(given.images, images[given.rows])


def test_idx_of_colour_pictures(tmp_path):
    (tmp_path / "test-images-idx4-ubyte").write_bytes(idx_bytes(PICTURES))
    (tmp_path / "test-labels-idx1-ubyte").write_bytes(idx_bytes(LABELS))
    assert torch.equal(load_data(tmp_path).images, tensor(PICTURES))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("change", "message"), [
    (lambda b: b[:-7], r"is truncated: shape \(6, 4, 5\) needs 120 bytes after the header, the file has 113; download"),
    (lambda b: b + b"x", "is not what its header says: .*needs 120 bytes after the header, the file has more than 120"),
    (lambda b: b[:9], "is truncated: its header needs 16 bytes, it has 9"),
    (lambda b: b[:3], "is not an idx file: it starts with 000008"),
    (lambda b: b"\x12" + b[1:], "is not an idx file: it starts with 12000803, expected 0000"),
    (lambda b: b[:2] + b"\x0d" + b[3:], r"only idx files of unsigned bytes \(type 08\) are read, this has type 0d"),
    (lambda b: b[:3] + b"\x01" + b[4:], "has 1 dimensions, expected 3 or 4; are images and labels swapped"),
    (lambda b: b[:4] + b"\xff" * 12, r"declares the shape \(4294967295, 4294967295, 4294967295\)"),
])  # fmt: skip
def test_spoilt_idx_files(idx, zipped, change, message):
    path = idx / "train-images-idx3-ubyte"
    content = change(path.read_bytes())
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(DataError, match=message):
        load_data(path)


def test_a_gzip_stream_that_ends_early(idx):
    path = idx / "train-images-idx3-ubyte"
    path.write_bytes(gzip.compress(idx_bytes(DRAWS.randint(0, 256, (6, 40, 50))))[:9000])
    with pytest.raises(
        DataError, match=r"is truncated: shape \(6, 40, 50\) needs 12000 bytes after the header, the file"
    ):
        load_data(path)
    path.write_bytes(b"\x1f\x8b\x08\x00rubbish that is no deflate stream")
    with pytest.raises(DataError, match="idx3-ubyte"):
        load_data(path)


def test_a_gzip_bomb_is_stopped_by_the_declared_size(idx):
    path = idx / "train-images-idx3-ubyte"
    path.write_bytes(gzip.compress(idx_bytes(GREY) + b"\0" * 10**7))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="the file has more than 120"):
            load_data(path)
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


def test_missing_idx_files(idx):
    (idx / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(
        DataError, match=r"no labels for .*t10k-images-idx3-ubyte: expected t10k-labels-idx1-ubyte beside"
    ):
        load_data(idx)
    (idx / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(
        DataError, match=r"no idx file for split='test'; expected t10k-images-idx3-ubyte\[\.gz\] or test-"
    ):
        load_data(idx)


# Labels from files


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.txt", b"1\ntwo\n", r"l\.txt, entry 2: expected one whole number per line, got 'two'"),
        ("l.txt", b"1\n-2\n", "must be class indices >= 0, got -2"),
        ("l.txt", b"\xff\xfe", "is not readable text"),
        ("l.json", b"[1]", r"expected \.npy, \.txt"),
        ("l.npy", b"\x93NUMPYrubbish", r"l\.npy is not a readable \.npy file"),
        ("l.txt", b"", "is empty"),
    ],
)
def test_bad_label_files(tmp_path, name, content, message):
    np.savez(tmp_path / "d.npz", x=PICTURES)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_data(tmp_path / "d.npz", labels=tmp_path / name)


def test_pickled_labels_are_refused(tmp_path):
    np.savez(tmp_path / "d.npz", x=PICTURES)
    np.save(tmp_path / "l.npy", np.array([{}] * 6, dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"l\.npy is not a readable \.npy file.*Python objects"):
        load_data(tmp_path / "d.npz", labels=tmp_path / "l.npy")


def test_a_file_of_another_kind(tmp_path):
    save(tmp_path / "one.png")
    with pytest.raises(DataError, match=r"neither a folder of class folders.*one picture is read by load_image"):
        load_data(tmp_path / "one.png")

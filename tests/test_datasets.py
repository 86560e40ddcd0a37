"""Data sets: the IDX reader on good and damaged files, where files are looked for, splits."""

import gzip
import hashlib
import struct
from dataclasses import replace

import numpy as np
import pytest

from flightrtl import samples
from flightrtl.datasets import DATASETS, DatasetError, idx, load, read_idx
from flightrtl.errors import UserError
from train.samples import main as write_samples


def idx_file(array):
    """An IDX file of unsigned bytes."""
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write(folder, images, labels, prefix="t10k", compress=True):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in ((f"{prefix}-images-idx3-ubyte", images),
                        (f"{prefix}-labels-idx1-ubyte", labels)):
        if compress:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx_file(array)))
        else:
            (folder / name).write_bytes(idx_file(array))


@pytest.fixture
def small():
    random = np.random.default_rng(0)
    return (random.integers(0, 256, (5, 28, 28), dtype=np.uint8),
            np.array([0, 9, 3, 3, 1], np.uint8))


@pytest.mark.parametrize("layout", ["mnist", "."])
@pytest.mark.parametrize("compress", [True, False])
def test_load_from_a_folder(tmp_path, small, layout, compress):
    write(tmp_path / layout, *small, compress=compress)
    images, labels = load("mnist", tmp_path)
    assert images.shape == (5, 28, 28, 1)
    assert np.array_equal(images[..., 0], small[0])
    assert np.array_equal(labels, small[1])


def test_train_split_has_its_own_files(tmp_path, small):
    write(tmp_path, *small, prefix="train")
    assert len(load("fashion-mnist", tmp_path, "train")[1]) == 5
    with pytest.raises(DatasetError, match=r"t10k-images"):
        load("fashion-mnist", tmp_path, "test")


@pytest.mark.parametrize(("damage", "message"), [
    (lambda data: b"", "starts with nothing"),
    (lambda data: b"\x00\x00\x0d\x03" + data[4:], "not an IDX file of unsigned bytes"),
    (lambda data: b"\x00\x00\x08\x01" + data[4:], "with 3 dimension"),
    (lambda data: data[:9], "do not hold the header of 16"),
    (lambda data: data[:-1], "announces 5 x 28 x 28 values"),
    (lambda data: data + b"\x00", "announces 5 x 28 x 28 values"),
    (lambda data: data[:4] + b"\xff\xff\xff\xff" + data[8:], "announces 4294967295"),
    (lambda data: gzip.compress(data)[:-9], "damaged gzip file"),
    (lambda data: gzip.compress(data)[:20] + b"\x55" * 40, "damaged gzip file"),
    (lambda data: b"\x1f\x8bnothing", "damaged gzip file"),
])
def test_damaged_files(tmp_path, small, damage, message):
    path = tmp_path / "file"
    path.write_bytes(damage(idx_file(small[0])))
    with pytest.raises(DatasetError, match=message) as error:
        read_idx(path, 3)
    assert str(path) in str(error.value)
    assert isinstance(error.value, UserError)


def test_missing_file(tmp_path):
    with pytest.raises(DatasetError, match="No such file"):
        read_idx(tmp_path / "nothing", 3)


def test_images_and_labels_must_belong_together(tmp_path, small):
    write(tmp_path, small[0], small[1][:-1])
    with pytest.raises(DatasetError, match="5 images, but .* 4 labels"):
        load("mnist", tmp_path)
    write(tmp_path, small[0], small[1] + 1)
    with pytest.raises(DatasetError, match="label 10"):
        load("mnist", tmp_path)
    write(tmp_path, small[0][:, :20], small[1])
    with pytest.raises(DatasetError, match="20 x 28 pixels"):
        load("mnist", tmp_path)


def test_the_files_of_another_data_set_are_refused(tmp_path, small, monkeypatch):
    write(tmp_path, *small)
    fashion = DATASETS["fashion-mnist"]
    digest = hashlib.md5((tmp_path / "t10k-images-idx3-ubyte.gz").read_bytes()).hexdigest()
    changed = replace(fashion, md5=(("t10k-images-idx3-ubyte.gz", digest),))
    monkeypatch.setattr(idx, "FASHION_MNIST", changed)
    with pytest.raises(DatasetError, match="belongs to fashion-mnist"):
        load("mnist", tmp_path)


def test_wrong_names():
    with pytest.raises(DatasetError, match="mnist, fashion-mnist, digits, cifar10, cifar100, svhn, "
                                           "imagenet"):
        load("mnst")
    with pytest.raises(DatasetError, match="train, test"):
        load("digits", split="validation")
    with pytest.raises(DatasetError, match="no such folder"):
        load("mnist", "/nonexistent/folder")


def test_without_a_network(tmp_path, monkeypatch):
    """One message that says what was tried and what to do."""
    pooch = pytest.importorskip("pooch")

    def offline(*args, **kwargs):
        raise ConnectionError("no network")
    monkeypatch.setattr(pooch, "retrieve", offline)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / name)
    with pytest.raises(DatasetError) as error:
        load("fashion-mnist")
    text = str(error.value)
    assert "cannot download t10k-images-idx3-ubyte.gz" in text
    assert all(mirror in text for mirror in DATASETS["fashion-mnist"].mirrors)
    assert str(tmp_path / "flightrtl" / "fashion-mnist") in text
    assert "--data DIR" in text


def test_files_in_the_cache_need_no_network(tmp_path, small, monkeypatch):
    pooch = pytest.importorskip("pooch")
    folder = tmp_path / "flightrtl" / "mnist"
    write(folder, *small)
    mnist = DATASETS["mnist"]
    md5 = tuple((file.name, hashlib.md5(file.read_bytes()).hexdigest())
                for file in folder.iterdir())
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / name)
    monkeypatch.setitem(DATASETS, "mnist", replace(
        mnist, mirrors=("http://127.0.0.1:9/",), md5=md5))
    assert np.array_equal(load("mnist")[0][..., 0], small[0])


def test_digits():
    pytest.importorskip("sklearn")
    train, test = load("digits", split="train"), load("digits")
    assert (len(train[0]), len(test[0])) == DATASETS["digits"].counts
    for images, labels in (train, test):
        assert images.dtype == labels.dtype == np.uint8
        assert images.shape[1:] == DATASETS["digits"].input.shape
        assert images.max() == 16 <= DATASETS["digits"].input.format.max
        assert set(labels.tolist()) == set(range(10))
    seen = {image.tobytes() for image in train[0]}
    assert not any(image.tobytes() in seen for image in test[0])


@pytest.mark.parametrize("name", samples.names())
def test_samples(name):
    images, labels = samples.load(name)
    assert images.dtype == labels.dtype == np.uint8
    assert images.shape[1:] == DATASETS[name].input.shape
    assert len(images) == len(labels)
    assert set(labels.tolist()) == set(range(10))
    assert images.max() <= DATASETS[name].input.format.max


def test_samples_of_digits_are_its_test_split():
    pytest.importorskip("sklearn")
    for ours, theirs in zip(samples.load("digits"), load("digits"), strict=True):
        assert np.array_equal(ours, theirs)


def test_samples_are_written_from_the_test_split(tmp_path, small, monkeypatch, capsys):
    """As many of each class as are to be had in the package."""
    images, _ = small
    labels = np.repeat(np.arange(10, dtype=np.uint8), 16)
    write(tmp_path, np.resize(images, (160, 28, 28)), labels)
    monkeypatch.setattr(samples, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr("sys.argv", ["samples", "--dataset", "fashion-mnist", "--data",
                                     str(tmp_path)])
    assert write_samples() == 0
    assert capsys.readouterr().out == f"{tmp_path / 'fashion-mnist'}.npz: 150 images\n"
    with np.load(tmp_path / "fashion-mnist.npz") as written:
        assert written["images"].shape == (150, 28, 28, 1)
        assert np.array_equal(np.bincount(written["labels"]), [15] * 10)


def test_samples_names():
    assert samples.names() == ["cifar10", "digits", "fashion-mnist", "mnist"]
    with pytest.raises(KeyError, match="samples of cifar10, digits, fashion-mnist, mnist"):
        samples.load("cifar")

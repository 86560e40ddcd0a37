"""SVHN: small MATLAB files in the format of the original ones."""

import hashlib
import sys
from dataclasses import replace

import numpy as np
import pytest

from flightrtl.datasets import DATASETS, DatasetError, load

FILES = {"train": "train_32x32.mat", "test": "test_32x32.mat"}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Images and labels of each split, of which there are files in a folder."""
    savemat = pytest.importorskip("scipy.io").savemat
    random = np.random.default_rng(0)
    result, md5 = {}, []
    for split, labels in (("train", [1, 0, 9, 5, 3]), ("test", [0, 2])):
        images = random.integers(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8)
        result[split] = images, np.array(labels)
        path = tmp_path / FILES[split]
        savemat(path, {"X": images.transpose(1, 2, 3, 0),
                       "y": np.array([[label or 10] for label in labels], np.uint8)},
                do_compression=True)
        md5.append((path.name, hashlib.md5(path.read_bytes()).hexdigest()))
    monkeypatch.setitem(DATASETS, "svhn", replace(DATASETS["svhn"], md5=tuple(md5)))
    return result


def check(small, folder):
    for split, (images, labels) in small.items():
        found = load("svhn", folder, split)
        assert found[0].dtype == found[1].dtype == np.uint8
        assert np.array_equal(found[0], images)
        assert np.array_equal(found[1], labels)


def test_what_is_announced():
    dataset = DATASETS["svhn"]
    assert dataset.counts == (73257, 26032)
    assert dataset.input.shape == (32, 32, 3)
    assert dataset.classes == 10


@pytest.mark.parametrize("layout", [".", "svhn"])
def test_from_a_folder(tmp_path, small, layout):
    """The label 10 stands for the digit 0."""
    (tmp_path / layout).mkdir(exist_ok=True)
    for name in FILES.values():
        (tmp_path / name).rename(tmp_path / layout / name)
    check(small, tmp_path)


def test_from_the_cache(tmp_path, small, monkeypatch):
    pooch = pytest.importorskip("pooch")
    folder = tmp_path / "flightrtl" / "svhn"
    folder.mkdir(parents=True)
    for name in FILES.values():
        (tmp_path / name).rename(folder / name)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / name)
    check(small, None)


@pytest.mark.parametrize("damage", [
    lambda data: b"",
    lambda data: data[:-1],
    lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:],
])
def test_damaged_files(tmp_path, small, damage):
    path = tmp_path / FILES["test"]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DatasetError, match="damaged, or not the original file: its MD5") as error:
        load("svhn", tmp_path)
    assert str(path) in str(error.value)
    assert len(load("svhn", tmp_path, "train")[1]) == 5


def test_missing_files(tmp_path):
    with pytest.raises(DatasetError, match=r"neither svhn/test_32x32.mat nor test_32x32.mat; .*"
                                           r"downloaded"):
        load("svhn", tmp_path)
    with pytest.raises(DatasetError, match="no such folder"):
        load("svhn", tmp_path / "nothing")


def test_without_scipy(tmp_path, small, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(DatasetError, match=r"takes SciPy, .*flightrtl\[train\]"):
        load("svhn", tmp_path)

"""CIFAR-10 and CIFAR-100: small files in the format of the binary versions, whole and damaged."""

import hashlib
import io
import tarfile
from dataclasses import replace

import numpy as np
import pytest

from flightrtl.datasets import DATASETS, DatasetError, load

COUNTS = (15, 4)        # of train and test; a file of CIFAR-10 has three
FILES = {"cifar10": {"train": [f"data_batch_{number}.bin" for number in range(1, 6)],
                     "test": ["test_batch.bin"]},
         "cifar100": {"train": ["train.bin"], "test": ["test.bin"]}}
ARCHIVES = {"cifar10": ("cifar-10-binary.tar.gz", "cifar-10-batches-bin"),
            "cifar100": ("cifar-100-binary.tar.gz", "cifar-100-binary")}
NAMES = sorted(FILES)


class Small:
    """A data set of few random images: what should be read, and the contents of its files."""

    def __init__(self, name):
        random = np.random.default_rng(0)
        self.name = name
        self.archive, self.inside = ARCHIVES[name]
        self.images, self.labels, self.files = {}, {}, {}
        for split, count in zip(("train", "test"), COUNTS, strict=True):
            images = random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
            labels = random.integers(0, DATASETS[name].classes, count, dtype=np.uint8)
            self.images[split], self.labels[split] = images, labels
            records = [(bytes([label % 20]) if name == "cifar100" else b"") + bytes([label])
                       + b"".join(image[..., channel].tobytes() for channel in range(3))
                       for image, label in zip(images, labels, strict=True)]
            names = FILES[name][split]
            each = count // len(names)
            for index, file in enumerate(names):
                self.files[file] = b"".join(records[index * each:(index + 1) * each])

    def unpack(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in self.files.items():
            (folder / name).write_bytes(data)

    def pack(self, folder):
        """Write the archive; returns its checksum."""
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(folder / self.archive, "w:gz") as archive:
            for name, data in self.files.items():
                member = tarfile.TarInfo(f"{self.inside}/{name}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        return hashlib.md5((folder / self.archive).read_bytes()).hexdigest()

    def check(self, folder):
        for split in ("train", "test"):
            images, labels = load(self.name, folder, split)
            assert images.dtype == labels.dtype == np.uint8
            assert np.array_equal(images, self.images[split])
            assert np.array_equal(labels, self.labels[split])


@pytest.fixture(params=NAMES)
def small(request, monkeypatch):
    result = Small(request.param)
    monkeypatch.setitem(DATASETS, result.name, replace(DATASETS[result.name], counts=COUNTS))
    return result


def with_checksum(small, digest, monkeypatch, **changes):
    monkeypatch.setitem(DATASETS, small.name, replace(
        DATASETS[small.name], md5=((small.archive, digest),), **changes))


def test_what_is_announced():
    """Of the original data sets: 6 files of 10,000 images, and 2 of 50,000 and 10,000."""
    for name in NAMES:
        dataset = DATASETS[name]
        assert dataset.counts == (50000, 10000)
        assert dataset.input.shape == (32, 32, 3)
        assert (dataset.input.format.min, dataset.input.format.max) == (0, 255)
        assert dataset.files == (tuple(FILES[name]["train"]), tuple(FILES[name]["test"]))
    assert [DATASETS[name].classes for name in NAMES] == [10, 100]


@pytest.mark.parametrize("layout", ["{inside}", "{name}", "{name}/{inside}", "."])
def test_unpacked_in_a_folder(tmp_path, small, layout):
    small.unpack(tmp_path / layout.format(inside=small.inside, name=small.name))
    small.check(tmp_path)


@pytest.mark.parametrize("layout", ["{name}", "."])
def test_out_of_the_archive(tmp_path, small, layout, monkeypatch):
    digest = small.pack(tmp_path / layout.format(name=small.name))
    with_checksum(small, digest, monkeypatch)
    small.check(tmp_path)


def test_out_of_the_cache(tmp_path, small, monkeypatch):
    pooch = pytest.importorskip("pooch")
    digest = small.pack(tmp_path / "flightrtl" / small.name)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / name)
    with_checksum(small, digest, monkeypatch, mirrors=("http://127.0.0.1:9/",))
    small.check(None)


def test_a_truncated_archive(tmp_path, small, monkeypatch):
    digest = small.pack(tmp_path)
    with_checksum(small, digest, monkeypatch)
    path = tmp_path / small.archive
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DatasetError, match=f"damaged, or not the original.*{digest}") as error:
        load(small.name, tmp_path)
    assert str(path) in str(error.value)


def test_an_unreadable_archive(tmp_path, small, monkeypatch):
    """A file that cannot be opened: here, one that vanishes after it was found."""
    small.pack(tmp_path)
    path = tmp_path / small.archive
    monkeypatch.setattr(type(path), "is_file", lambda self: self == path)
    path.unlink()
    with pytest.raises(DatasetError, match="No such file") as error:
        load(small.name, tmp_path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("change", [-1, 1, -3074])
def test_a_file_of_the_wrong_size(tmp_path, small, change):
    """Also a whole record too few is noticed."""
    small.unpack(tmp_path)
    path = tmp_path / FILES[small.name]["train"][-1]
    data = path.read_bytes()
    path.write_bytes(data[:change] if change < 0 else data + bytes(change))
    with pytest.raises(DatasetError, match=f"{len(data) + change} bytes; .* are {len(data)}; "
                                           "fetch it again") as error:
        load(small.name, tmp_path, "train")
    assert str(path) in str(error.value)


def test_a_label_out_of_range(tmp_path, small):
    small.unpack(tmp_path)
    size = DATASETS[small.name].input.size + (2 if small.name == "cifar100" else 1)
    path = tmp_path / FILES[small.name]["test"][0]
    original = path.read_bytes()
    for byte, classes in enumerate((20, 100) if small.name == "cifar100" else (10,)):
        data = bytearray(original)
        data[2 * size + byte] = classes
        path.write_bytes(data)
        with pytest.raises(DatasetError, match=f"label {classes} in record 2; there are {classes} "
                                               "classes"):
            load(small.name, tmp_path)


def test_a_missing_file(tmp_path, monkeypatch):
    small = Small("cifar10")
    monkeypatch.setitem(DATASETS, "cifar10", replace(DATASETS["cifar10"], counts=COUNTS))
    small.unpack(tmp_path / "cifar10")
    (tmp_path / "cifar10" / "data_batch_3.bin").unlink()
    with pytest.raises(DatasetError, match=r"has data_batch_1.bin, but not data_batch_3.bin; "
                                           r"unpack cifar-10-binary.tar.gz again"):
        load("cifar10", tmp_path, "train")
    assert len(load("cifar10", tmp_path, "test")[1]) == COUNTS[1]


def test_an_empty_folder(tmp_path, small):
    with pytest.raises(DatasetError) as error:
        load(small.name, tmp_path)
    text = str(error.value)
    assert small.archive in text
    assert f"{small.inside}/{FILES[small.name]['test'][0]}" in text
    assert "pickle" not in text


@pytest.mark.parametrize(("name", "layout"), [
    ("cifar10", "cifar-10-batches-py/batches.meta"),
    ("cifar10", "batches.meta"),
    ("cifar100", "cifar100/cifar-100-python/train"),
])
def test_the_pickled_version_is_not_read(tmp_path, name, layout):
    path = tmp_path / layout
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"the Python version, .*, is not read: it is made of "
                                           r"pickles"):
        load(name, tmp_path)

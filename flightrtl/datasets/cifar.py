"""CIFAR-10 and CIFAR-100, from the binary versions of their authors.

A file is a row of records: the label bytes (CIFAR-10: the class; CIFAR-100: the coarse class,
then the fine one, which is used here), then 3,072 bytes of an image as three planes of 32 rows,
red, green, blue (https://www.cs.toronto.edu/~kriz/cifar.html). The files are read from a folder or
out of the archive as it is downloaded.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..formats import ActivationFormat
from ..model import TensorType
from .source import Dataset, DatasetError, Images, Labels, check_md5, data_folder, download, missing

__all__ = ["CIFAR10", "CIFAR100", "read"]

_LABELS = {"cifar10": (10,), "cifar100": (20, 100)}
"""Classes that each label byte of a record can name; the last byte is the label."""


def _archive_of(dataset: Dataset) -> tuple[str, str]:
    assert dataset.archive is not None      # both data sets below have one
    return dataset.archive


def _find(dataset: Dataset, folder: Path, names: tuple[str, ...]) -> Path:
    """The folder with all files of a split, or the archive, in a folder that the user named."""
    archive, inside = _archive_of(dataset)
    places = [folder / inside, folder / dataset.name / inside, folder / dataset.name, folder]
    for place in places:
        there = [name for name in names if (place / name).is_file()]
        if len(there) == len(names):
            return place
        if there:
            absent = ", ".join(name for name in names if name not in there)
            raise DatasetError(f"data folder {place}: it has {there[0]}, but not {absent}; unpack "
                               f"{archive} again")
    for place in (folder / dataset.name, folder):
        if (place / archive).is_file():
            check_md5(dataset, place / archive)
            return place / archive
    hint = ""
    pickles = inside.replace("-batches-bin", "-batches-py").replace("-binary", "-python")
    if any((place / name).exists() for place in places for name in (pickles, "batches.meta")):
        hint = (f" (the Python version, {pickles}, is not read: it is made of pickles, which can "
                "run any code when they are opened)")
    raise missing(dataset, folder, (f"{inside}/{names[0]}", f"{dataset.name}/{names[0]}",
                                    names[0], archive), hint)


def _contents(place: Path, inside: str, names: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Each file as its name for messages, and what is in it."""
    try:
        if place.is_dir():
            for name in names:
                yield str(place / name), (place / name).read_bytes()
            return
        with tarfile.open(place, "r:gz") as archive:    # its checksum is that of the original
            for name in names:
                member = archive.extractfile(f"{inside}/{name}")
                assert member is not None
                yield f"{place}: {inside}/{name}", member.read()
    except OSError as error:
        raise DatasetError(f"{place}: {error.strerror or error}") from None


def read(dataset: Dataset, folder: Path | None, split: str) -> tuple[Images, Labels]:
    """Images and labels of a split, see :func:`flightrtl.datasets.load`."""
    names, count = dataset.of(split)
    archive, inside = _archive_of(dataset)
    place = (download(dataset, archive) if folder is None else
             _find(dataset, data_folder(folder), names))
    limits = _LABELS[dataset.name]
    height, width, channels = dataset.input.shape
    size = len(limits) + dataset.input.size
    each = count // len(names)      # the files of a split are of equal length
    planes = np.empty((count, channels, height, width), np.uint8)
    labels = np.empty(count, np.uint8)
    for index, (name, data) in enumerate(_contents(place, inside, names)):
        if len(data) != each * size:
            raise DatasetError(f"{name}: {len(data)} bytes; {each} records of {size} bytes are "
                               f"{each * size}; fetch it again")
        records = np.frombuffer(data, np.uint8).reshape(each, size)
        for byte, limit in enumerate(limits):
            if (wrong := records[:, byte] >= limit).any():
                record = int(wrong.argmax())
                raise DatasetError(f"{name}: label {records[record, byte]} in record {record}; "
                                   f"there are {limit} classes, 0 upwards; fetch it again")
        part = slice(index * each, (index + 1) * each)
        labels[part] = records[:, len(limits) - 1]
        planes[part] = records[:, len(limits):].reshape(each, channels, height, width)
    return planes.transpose(0, 2, 3, 1), labels     # a view: PyTorch wants the planes again


_PIXELS = TensorType((32, 32, 3), ActivationFormat(8), -8)
_MIRRORS = ("https://www.cs.toronto.edu/~kriz/",)

CIFAR10 = Dataset(
    "cifar10", _PIXELS, 10, (50000, 10000), read,
    (tuple(f"data_batch_{number}.bin" for number in range(1, 6)), ("test_batch.bin",)),
    ("cifar-10-binary.tar.gz", "cifar-10-batches-bin"), _MIRRORS,
    (("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),),
    class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship",
                 "truck"))

CIFAR100 = Dataset(
    "cifar100", _PIXELS, 100, (50000, 10000), read, (("train.bin",), ("test.bin",)),
    ("cifar-100-binary.tar.gz", "cifar-100-binary"), _MIRRORS,
    (("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),))

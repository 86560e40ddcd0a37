"""MNIST and Fashion-MNIST, from IDX files."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import zlib
from pathlib import Path

import numpy as np

from ..formats import ActivationFormat
from ..model import TensorType
from .source import Dataset, DatasetError, Images, Labels, data_folder, download, missing

__all__ = ["FASHION_MNIST", "MNIST", "read", "read_idx"]


def read_idx(path: str | os.PathLike[str], dimensions: int) -> Images:
    """The array in an IDX file of unsigned bytes, gzip-compressed or not.

    The format (from the MNIST page): two zero bytes, a type byte (8 is unsigned byte), the number
    of dimensions, each dimension as a big-endian 32-bit integer, then the values.

    Parameters
    ----------
    path : path
        The file.
    dimensions : int
        How many dimensions the array must have: 3 for images, 1 for labels.

    Raises
    ------
    DatasetError
        If the file is missing, is not an IDX file of that kind, or is not complete.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DatasetError(f"{path}: damaged gzip file ({error}); fetch it again") from None
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from None
    header = 4 + 4 * dimensions
    if data[:4] != bytes((0, 0, 8, dimensions)):
        raise DatasetError(f"{path}: not an IDX file of unsigned bytes with {dimensions} "
                           f"dimension(s): it starts with {data[:4].hex(' ') or 'nothing'}, not "
                           f"with 00 00 08 {dimensions:02x}")
    if len(data) < header:
        raise DatasetError(f"{path}: truncated: {len(data)} bytes do not hold the header of "
                           f"{header} bytes; fetch it again")
    shape = tuple(int.from_bytes(data[4 * index:4 * index + 4], "big")
                  for index in range(1, dimensions + 1))
    count = math.prod(shape)
    if len(data) != header + count:
        raise DatasetError(f"{path}: its header announces {' x '.join(map(str, shape))} values "
                           f"({header + count} bytes with the header), but it has {len(data)} "
                           "bytes; fetch it again")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _in_folder(dataset: Dataset, folder: Path, file: str) -> Path:
    """``file`` in a folder that the user named, in any of the usual layouts."""
    plain = file.removesuffix(".gz")
    for place in (folder / dataset.name, folder):
        for name in (file, plain):
            if (place / name).is_file():
                _not_another(dataset, place / name)
                return place / name
    raise missing(dataset, folder, (f"{dataset.name}/{file}", file), " (with or without .gz)")


def _not_another(dataset: Dataset, path: Path) -> None:
    """Refuse the original files of another data set: all of them have the same names."""
    if path.suffix != ".gz":
        return
    digest = hashlib.md5(path.read_bytes()).hexdigest()
    for other in (MNIST, FASHION_MNIST):
        if other.name != dataset.name and digest in dict(other.md5).values():
            raise DatasetError(f"{path}: this file belongs to {other.name}, not to "
                               f"{dataset.name}; ask for the data set {other.name}, or give the "
                               f"folder that has {dataset.name}")


def read(dataset: Dataset, folder: Path | None, split: str) -> tuple[Images, Labels]:
    """Images and labels of a split, see :func:`flightrtl.datasets.load`."""
    names, _ = dataset.of(split)
    found = ([download(dataset, name) for name in names] if folder is None else
             [_in_folder(dataset, data_folder(folder), name) for name in names])
    images, labels = read_idx(found[0], 3), read_idx(found[1], 1)
    height, width, _ = dataset.input.shape
    if images.shape[1:] != (height, width):
        raise DatasetError(f"{found[0]}: images of {images.shape[1]} x {images.shape[2]} pixels; "
                           f"{dataset.name} has {height} x {width}")
    if len(images) != len(labels):
        raise DatasetError(f"{found[0]} has {len(images)} images, but {found[1]} has "
                           f"{len(labels)} labels; fetch both again")
    if labels.size and labels.max() >= dataset.classes:
        raise DatasetError(f"{found[1]}: label {labels.max()}; {dataset.name} has "
                           f"{dataset.classes} classes, 0 upwards")
    return images[..., None], labels


_PIXELS = TensorType((28, 28, 1), ActivationFormat(8), -8)
_FILES = (("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
          ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"))

MNIST = Dataset(
    "mnist", _PIXELS, 10, (60000, 10000), read, _FILES,
    mirrors=("https://ossci-datasets.s3.amazonaws.com/mnist/",
             "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    md5=(("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
         ("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
         ("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
         ("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c")))

FASHION_MNIST = Dataset(
    "fashion-mnist", _PIXELS, 10, (60000, 10000), read, _FILES,
    mirrors=("https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
             "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"),
    md5=(("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
         ("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
         ("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
         ("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310")),
    class_names=("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt",
                 "sneaker", "bag", "ankle boot"))

"""Data sets: MNIST and Fashion-MNIST from IDX files, and scikit-learn's digits.

Nothing here needs PyTorch; the trainer and the simulator read their images through
:func:`load`. scikit-learn and pooch are imported only when they are needed.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import UserError
from .formats import ActivationFormat
from .model import TensorType

__all__ = ["DATASETS", "Dataset", "DatasetError", "Images", "load", "read_idx"]

Images = NDArray[np.uint8]

_SPLITS = ("train", "test")


class DatasetError(UserError):
    """A data set cannot be had, or its files are not what they should be."""


@dataclass(frozen=True)
class Dataset:
    """What is known of a data set before it is read.

    Parameters
    ----------
    name : str
        By which users ask for it.
    input : TensorType
        Shape of an image, the integers in it, and the scale that networks are trained with.
    classes : int
        Labels are ``0 .. classes - 1``.
    counts : (int, int)
        Images in the training and in the test split.
    mirrors : tuple of str
        Where its files can be fetched, in order of trial; empty if it has no files.
    md5 : mapping
        File name to checksum.
    """

    name: str
    input: TensorType
    classes: int
    counts: tuple[int, int]
    mirrors: tuple[str, ...] = ()
    md5: tuple[tuple[str, str], ...] = ()

    def files(self, split: str) -> tuple[str, str]:
        """Names of the files that hold the images and the labels of ``split``."""
        prefix = {"train": "train", "test": "t10k"}[split]
        return f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz"


_PIXELS = TensorType((28, 28, 1), ActivationFormat(8), -8)

DATASETS: dict[str, Dataset] = {dataset.name: dataset for dataset in (
    Dataset("mnist", _PIXELS, 10, (60000, 10000),
            ("https://ossci-datasets.s3.amazonaws.com/mnist/",
             "https://storage.googleapis.com/cvdf-datasets/mnist/"),
            (("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
             ("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
             ("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
             ("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"))),
    Dataset("fashion-mnist", _PIXELS, 10, (60000, 10000),
            ("https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
             "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"),
            (("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
             ("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
             ("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
             ("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"))),
    Dataset("digits", TensorType((8, 8, 1), ActivationFormat(5), -4), 10, (1437, 360)),
)}


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
    if not folder.is_dir():
        raise DatasetError(f"data folder {folder}: no such folder")
    plain = file.removesuffix(".gz")
    for place in (folder / dataset.name, folder):
        for name in (file, plain):
            if (place / name).is_file():
                _not_another(dataset, place / name)
                return place / name
    raise DatasetError(f"data folder {folder}: it has neither {dataset.name}/{file} nor {file} "
                       f"(with or without .gz); put the files of {dataset.name} there, or leave "
                       "the folder out to have them downloaded")


def _not_another(dataset: Dataset, path: Path) -> None:
    """Refuse the original files of another data set: all of them have the same names."""
    if path.suffix != ".gz":
        return
    digest = hashlib.md5(path.read_bytes()).hexdigest()
    for other in DATASETS.values():
        if other.name != dataset.name and digest in dict(other.md5).values():
            raise DatasetError(f"{path}: this file belongs to {other.name}, not to "
                               f"{dataset.name}; ask for the data set {other.name}, or give the "
                               f"folder that has {dataset.name}")


def _from_cache(dataset: Dataset, file: str) -> Path:
    """``file`` from the user's cache folder, downloaded and checked if it is not there."""
    try:
        import pooch
    except ImportError:
        raise DatasetError(f"the files of {dataset.name} are needed: name a folder that has them, "
                           "or install what can download them: "
                           "pip install 'flightrtl[train]'") from None
    folder = Path(pooch.os_cache("flightrtl")) / dataset.name
    reasons = []
    for mirror in dataset.mirrors:
        try:
            return Path(pooch.retrieve(mirror + file, known_hash=f"md5:{dict(dataset.md5)[file]}",
                                       path=folder, fname=file,
                                       downloader=pooch.HTTPDownloader(timeout=20)))
        except (OSError, ValueError) as error:       # no connection; wrong checksum
            reasons.append(f"  {mirror}: {type(error).__name__}")
    raise DatasetError(f"cannot download {file} of {dataset.name}:\n" + "\n".join(reasons)
                       + f"\nPut the file into {folder}, or name a folder that has the files "
                       "(--data DIR).")


def _digits(split: str) -> tuple[Images, Images]:
    """scikit-learn's 1,797 digits; every fifth one, starting with the first, is the test split."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DatasetError("the data set digits comes with scikit-learn, which is not installed: "
                           "pip install 'flightrtl[train]'") from None
    images, labels = load_digits(return_X_y=True)
    chosen = (np.arange(len(labels)) % 5 == 0) == (split == "test")
    return (images[chosen].astype(np.uint8).reshape(-1, 8, 8, 1),
            labels[chosen].astype(np.uint8))


def load(name: str, data_dir: str | os.PathLike[str] | None = None,
         split: str = "test") -> tuple[Images, Images]:
    """All images of a split, and their labels.

    Parameters
    ----------
    name : str
        A key of :data:`DATASETS`.
    data_dir : path, optional
        A folder with the files (``DIR/NAME/FILE`` or ``DIR/FILE``). Without it they are taken
        from the user's cache folder, into which they are downloaded if need be. The data set
        ``digits`` has no files.
    split : {"train", "test"}

    Returns
    -------
    images : uint8 array (N, height, width, channels), labels : uint8 array (N,)

    Raises
    ------
    DatasetError
        Unknown name or split; files missing or damaged; no network.
    """
    if name not in DATASETS:
        raise DatasetError(f"no data set {name!r}; there are {', '.join(DATASETS)}")
    if split not in _SPLITS:
        raise DatasetError(f"no split {split!r}; there are {', '.join(_SPLITS)}")
    dataset = DATASETS[name]
    if not dataset.mirrors:
        return _digits(split)
    found = [_in_folder(dataset, Path(data_dir), file) if data_dir is not None
             else _from_cache(dataset, file) for file in dataset.files(split)]
    images, labels = read_idx(found[0], 3), read_idx(found[1], 1)
    height, width, _ = dataset.input.shape
    if images.shape[1:] != (height, width):
        raise DatasetError(f"{found[0]}: images of {images.shape[1]} x {images.shape[2]} pixels; "
                           f"{name} has {height} x {width}")
    if len(images) != len(labels):
        raise DatasetError(f"{found[0]} has {len(images)} images, but {found[1]} has "
                           f"{len(labels)} labels; fetch both again")
    if labels.size and labels.max() >= dataset.classes:
        raise DatasetError(f"{found[1]}: label {labels.max()}; {name} has {dataset.classes} "
                           "classes, 0 upwards")
    return images[..., None], labels

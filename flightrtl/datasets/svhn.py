"""SVHN, the cropped digits of the Street View House Numbers, from their MATLAB files.

A file holds ``X``, bytes of shape (32, 32, 3, N), and ``y``, the labels of shape (N, 1), in which
the digit 0 is called 10 (http://ufldl.stanford.edu/housenumbers/). The further training images of
that page (``extra``) are not read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..formats import ActivationFormat
from ..model import TensorType
from .source import (
    Dataset,
    DatasetError,
    Images,
    Labels,
    check_md5,
    data_folder,
    download,
    missing,
)

__all__ = ["SVHN", "read", "read_mat"]


def read_mat(path: Path) -> tuple[Images, Labels]:
    """Images (N, 32, 32, 3) and labels 0 to 9 in a file of the cropped digits.

    Parameters
    ----------
    path : path
        One of the original files: its contents are not checked here.

    Raises
    ------
    DatasetError
        If SciPy is not installed.
    """
    try:
        from scipy.io import loadmat
    except ImportError:
        raise DatasetError("reading the MATLAB files of svhn takes SciPy, which is not installed: "
                           "pip install 'flightrtl[train]'") from None
    found = loadmat(path, variable_names=("X", "y"))
    labels = found["y"].reshape(-1)
    return (np.ascontiguousarray(found["X"].transpose(3, 0, 1, 2)),
            np.where(labels == 10, 0, labels).astype(np.uint8))


def read(dataset: Dataset, folder: Path | None, split: str) -> tuple[Images, Labels]:
    """Images and labels of a split, see :func:`flightrtl.datasets.load`."""
    (name,), _ = dataset.of(split)
    if folder is None:
        return read_mat(download(dataset, name))
    for place in (data_folder(folder) / dataset.name, folder):
        if (place / name).is_file():
            check_md5(dataset, place / name)
            return read_mat(place / name)
    raise missing(dataset, folder, (f"{dataset.name}/{name}", name))


SVHN = Dataset(
    "svhn", TensorType((32, 32, 3), ActivationFormat(8), -8), 10, (73257, 26032), read,
    (("train_32x32.mat",), ("test_32x32.mat",)),
    mirrors=("http://ufldl.stanford.edu/housenumbers/",),
    md5=(("train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"),
         ("test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3")))

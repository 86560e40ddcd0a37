"""What is known of a data set before it is read, and where its files are found."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..model import TensorType

__all__ = ["SPLITS", "Dataset", "DatasetError", "Images", "Labels", "check_md5", "data_folder",
           "download", "missing"]

Images = NDArray[np.uint8]
Labels = NDArray[Any]
Reader = Callable[["Dataset", "Path | None", str], tuple[Any, Labels]]

SPLITS = ("train", "test")


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
    read : callable
        ``read(dataset, folder, split)`` gives images and labels as :func:`.load` does; without a
        folder (None) it takes the files from the user's cache.
    files : (tuple of str, tuple of str)
        Names of the files of the training and of the test split.
    archive : str, optional
        Name of the file that is downloaded, and its folder inside, if that is not each of
        ``files``.
    mirrors : tuple of str
        Where its files can be fetched, in order of trial; empty if they cannot.
    md5 : tuple of (str, str)
        Name and checksum of each file that can be fetched.
    class_names : tuple of str
        What the labels mean; empty where they are the digits themselves, or too many.
    """

    name: str
    input: TensorType
    classes: int
    counts: tuple[int, int]
    read: Reader
    files: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    archive: tuple[str, str] | None = None
    mirrors: tuple[str, ...] = ()
    md5: tuple[tuple[str, str], ...] = ()
    class_names: tuple[str, ...] = ()

    def of(self, split: str) -> tuple[tuple[str, ...], int]:
        """Files and number of images of ``split``."""
        index = SPLITS.index(split)
        return self.files[index], self.counts[index]


def data_folder(folder: Path) -> Path:
    """``folder`` if it is one."""
    if not folder.is_dir():
        raise DatasetError(f"data folder {folder}: no such folder")
    return folder


def missing(dataset: Dataset, folder: Path, wanted: Iterable[str], hint: str = "") -> DatasetError:
    """The error for a folder that has none of the ``wanted`` paths."""
    *most, last = wanted
    remedy = ", or leave the folder out to have them downloaded" if dataset.mirrors else ""
    what = f"neither {', '.join(most)} nor {last}" if most else f"no {last}"
    return DatasetError(f"data folder {folder}: it has {what}{hint}; put the files of "
                        f"{dataset.name} there{remedy}")


def check_md5(dataset: Dataset, path: Path) -> None:
    """Refuse a file that is not, byte for byte, the original one of that name."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "md5").hexdigest()
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from None
    if digest != (original := dict(dataset.md5)[path.name]):
        raise DatasetError(f"{path}: damaged, or not the original file: its MD5 checksum is "
                           f"{digest}, not {original}; fetch it again")


def download(dataset: Dataset, file: str) -> Path:
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

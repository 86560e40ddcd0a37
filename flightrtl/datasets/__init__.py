"""Data sets, each from its original files.

source     what is known of a data set before it is read; where files are found or downloaded
idx        MNIST and Fashion-MNIST
cifar      CIFAR-10 and CIFAR-100
svhn       SVHN, the cropped digits
imagenet   ImageNet as folders of JPEG files, decoded when they are asked for
digits     scikit-learn's digits

Nothing here needs PyTorch; the trainer and the simulator read their images through
:func:`load`. scikit-learn, SciPy, Pillow and pooch are imported only when they are needed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .cifar import CIFAR10, CIFAR100
from .digits import DIGITS
from .idx import FASHION_MNIST, MNIST, read_idx
from .imagenet import IMAGENET, ImageFolder
from .source import SPLITS, Dataset, DatasetError, Images, Labels
from .svhn import SVHN

__all__ = ["DATASETS", "Dataset", "DatasetError", "ImageFolder", "Images", "Labels", "load",
           "read_idx"]

DATASETS: dict[str, Dataset] = {dataset.name: dataset for dataset in (
    MNIST, FASHION_MNIST, DIGITS, CIFAR10, CIFAR100, SVHN, IMAGENET)}


def load(name: str, data_dir: str | os.PathLike[str] | None = None,
         split: str = "test") -> tuple[Any, Labels]:
    """All images of a split, and their labels.

    Parameters
    ----------
    name : str
        A key of :data:`DATASETS`.
    data_dir : path, optional
        A folder with the files (``DIR/NAME/FILE`` or ``DIR/FILE``; of CIFAR also the folder that
        the archive makes, or the archive itself). Without it they are taken from the user's cache
        folder, into which they are downloaded if need be. ImageNet cannot be downloaded. The data
        set ``digits`` has no files.
    split : {"train", "test"}

    Returns
    -------
    images : uint8 array (N, height, width, channels), or :class:`ImageFolder`
        Of ``imagenet``, which does not fit into memory, an :class:`ImageFolder`: ``images[chosen]``
        is a uint8 array (n, height, width, channels) of either.
    labels : array of integers (N,)

    Raises
    ------
    DatasetError
        Unknown name or split; files missing or damaged; no network.
    """
    if name not in DATASETS:
        raise DatasetError(f"no data set {name!r}; there are {', '.join(DATASETS)}")
    if split not in SPLITS:
        raise DatasetError(f"no split {split!r}; there are {', '.join(SPLITS)}")
    dataset = DATASETS[name]
    return dataset.read(dataset, None if data_dir is None else Path(data_dir), split)

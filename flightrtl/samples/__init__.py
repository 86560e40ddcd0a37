"""A few test images of each bundled model's data set, for demos and tests without any download.

``mnist``
    300 of the 10,000 MNIST test images, 30 of each class.
``fashion-mnist``
    150 of the 10,000 Fashion-MNIST test images, 15 of each class.
``cifar10``
    100 of the 10,000 CIFAR-10 test images, 10 of each class.
``digits``
    All 360 images of the test split of scikit-learn's digits.

No image was used in training. ``python -m train.samples`` wrote the files.
"""

from __future__ import annotations

from importlib import resources

import numpy as np
from numpy.typing import NDArray

__all__ = ["load", "names"]


def names() -> list[str]:
    """Data sets that there are samples of, sorted."""
    return sorted(file.name.removesuffix(".npz") for file in resources.files(__name__).iterdir()
                  if file.name.endswith(".npz"))


def load(name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images and labels of a data set.

    Parameters
    ----------
    name : str
        One of :func:`names`.

    Returns
    -------
    images : uint8 array (N, height, width, channels), labels : uint8 array (N,)

    Raises
    ------
    KeyError
        If there are no samples of that name.

    >>> images, labels = load("digits")
    >>> images.shape, labels.shape
    ((360, 8, 8, 1), (360,))
    """
    if name not in names():
        raise KeyError(f"no samples of {name!r}; there are samples of {', '.join(names())}")
    with (resources.files(__name__) / f"{name}.npz").open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        return arrays["images"], arrays["labels"]

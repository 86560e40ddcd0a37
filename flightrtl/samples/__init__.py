"""Sample images that come with the package: real test images, for demos and tests anywhere.

Each file ``NAME.npz`` holds ``images``, uint8 (N, height, width, channels), and ``labels``,
uint8 (N,): the first images of the test split of the data set ``NAME``.
"""

from __future__ import annotations

from importlib import resources

import numpy as np
from numpy.typing import NDArray

__all__ = ["load", "names"]

_SUFFIX = ".npz"


def names() -> list[str]:
    """Names of the data sets of which there are samples, sorted."""
    return sorted(file.name.removesuffix(_SUFFIX) for file in resources.files(__name__).iterdir()
                  if file.name.endswith(_SUFFIX))


def load(name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The sample images of a data set, and their labels.

    Raises
    ------
    KeyError
        If there are none of that name.
    """
    if name not in names():
        raise KeyError(f"no samples of {name!r}; there are: {', '.join(names())}")
    with (resources.files(__name__) / f"{name}{_SUFFIX}").open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        return arrays["images"], arrays["labels"]

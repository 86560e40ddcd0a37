"""scikit-learn's digits, which come with that library and have no files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..formats import ActivationFormat
from ..model import TensorType
from .source import Dataset, DatasetError, Images, Labels

__all__ = ["DIGITS", "read"]


def read(dataset: Dataset, folder: Path | None, split: str) -> tuple[Images, Labels]:
    """1,797 digits; every fifth one, starting with the first, is in the test split.

    ``folder`` is not used.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DatasetError("the data set digits comes with scikit-learn, which is not installed: "
                           "pip install 'flightrtl[train]'") from None
    images, labels = load_digits(return_X_y=True)
    chosen = (np.arange(len(labels)) % 5 == 0) == (split == "test")
    return (images[chosen].astype(np.uint8).reshape(-1, *dataset.input.shape),
            labels[chosen].astype(np.uint8))


DIGITS = Dataset("digits", TensorType((8, 8, 1), ActivationFormat(5), -4), 10, (1437, 360), read)

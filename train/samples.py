"""Write the sample images of the package: ``python -m train.samples [--data DIR]``.

The choice is fixed: the same data sets give the same images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from flightrtl import datasets, samples
from flightrtl.errors import run_cli
from flightrtl.files import atomic_write

__all__ = ["choose", "main"]

_PER_CLASS = {"digits": None, "fashion-mnist": 15, "mnist": 30, "cifar10": 10, "cifar100": 1,
              "svhn": 10}
"""Images of each class; None is the whole test split."""


def choose(labels: datasets.Images, each: int) -> np.ndarray:
    """Indices of ``each`` images of every class, in the data set's order.

    >>> labels = np.array([0, 1] * 4, np.uint8)
    >>> labels[choose(labels, 2)].tolist()
    [0, 1, 1, 0]
    """
    random = np.random.default_rng(2019)
    return np.sort(np.concatenate([random.choice(np.flatnonzero(labels == label), each,
                                                 replace=False) for label in np.unique(labels)]))


def main() -> int:
    """Write ``NAME.npz`` of each data set into ``flightrtl/samples``."""
    parser = argparse.ArgumentParser(prog="python -m train.samples", description=__doc__)
    parser.add_argument("--dataset", metavar="NAME", choices=_PER_CLASS,
                        help=f"one of {', '.join(_PER_CLASS)}; default: all that are there already")
    parser.add_argument("--data", metavar="DIR", help="folder with the data sets' files")
    options = parser.parse_args()
    folder = Path(samples.__file__).parent
    for name in [options.dataset] if options.dataset else samples.names():
        images, labels = datasets.load(name, options.data, "test")
        if (each := _PER_CLASS[name]) is not None:
            chosen = choose(labels, each)
            images, labels = images[chosen], labels[chosen]
        with atomic_write(folder / f"{name}.npz", "wb") as file:
            np.savez_compressed(file, images=images, labels=labels)
        print(f"{folder / name}.npz: {len(images)} images")
    return 0


if __name__ == "__main__":
    run_cli(main)

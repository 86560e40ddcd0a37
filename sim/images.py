"""Which images a simulation gets."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flightrtl import datasets, samples
from flightrtl.errors import UserError
from flightrtl.formats import IntArray
from flightrtl.model import Model

__all__ = ["choose"]


def choose(model: Model, count: int, *, dataset: str | None = None, folder: Path | None = None,
           seed: int | None = None) -> tuple[IntArray, IntArray]:
    """Images for ``model``, and their labels.

    Parameters
    ----------
    model : Model
        Tells the data set, if ``dataset`` does not.
    count : int
        How many.
    dataset, folder : str, Path, optional
        The test split of this data set, from this folder. With neither of them, the sample
        images that come with flightrtl.
    seed : int, optional
        Draw them at random; otherwise the first ones are taken.

    Raises
    ------
    UserError
        If there are no such images, not as many, or they are none for this model.
    """
    name = dataset or _trained_on(model)
    if dataset is None and folder is None:
        if name not in samples.names():
            raise UserError(
                f"no sample images of {name!r} come with flightrtl, only of "
                f"{', '.join(samples.names())}: name a data set with --dataset, and with --data "
                "the folder that has its files")
        images, labels = samples.load(name)
        source = f"the samples of {name}; --dataset {name} takes the whole test split"
    else:
        images, labels = datasets.load(name, folder, "test")
        source = f"the test split of {name}"
    if count > len(images):
        raise UserError(f"{count} images asked for, but there are only {len(images)} in {source}")
    shape, limits = model.input.shape, model.input.format
    if images.shape[1:] != shape:
        raise UserError(f"the images of {name} are {_times(images.shape[1:])}, but model "
                        f"{model.name!r} takes {_times(shape)}: choose a data set of that size "
                        "with --dataset")
    chosen = (np.arange(count) if seed is None
              else np.random.default_rng(seed).choice(len(images), count, replace=False))
    images = images[chosen]     # now an array, if it was none before
    if images.size and not limits.min <= images.min() <= images.max() <= limits.max:
        raise UserError(f"the images of {name} hold {images.min()} to {images.max()}, but model "
                        f"{model.name!r} takes {limits.min} to {limits.max}: choose a data set "
                        "with that range with --dataset")
    return images.astype(np.int64), labels[chosen].astype(np.int64)


def _trained_on(model: Model) -> str:
    name = model.provenance.get("dataset")
    if not isinstance(name, str):
        raise UserError(f"model {model.name!r} does not say which data set it is for: name one "
                        f"with --dataset ({', '.join(datasets.DATASETS)})")
    return name


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))

"""ImageNet as folders of JPEG files, which are decoded when they are asked for.

``DIR/imagenet/train/CLASS/*.JPEG`` and ``DIR/imagenet/val/CLASS/*.JPEG``, or the same without
``imagenet``. A label is the place of the class's folder in alphabetical order, so any data set in
this layout can be read, with up to 1,000 classes.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ..formats import ActivationFormat
from ..model import TensorType
from .source import Dataset, DatasetError, Images, Labels, data_folder, missing

__all__ = ["IMAGENET", "ImageFolder", "read"]

_FOLDERS = {"train": "train", "test": "val"}
_SUFFIXES = (".jpeg", ".jpg")
_FORMATS = ("JPEG", "PNG")      # one of the original .JPEG files is a PNG file
_SHORT_SIDE = 256 / 224         # before the centre crop, of the size that remains
_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)
_ATTEMPTS = 10
_THREADS = 4

Box = tuple[float, float, float, float]


class ImageFolder:
    """Images in files, which can be indexed as if they were one array.

    ``images[chosen]`` takes what an index into a NumPy array may be (an integer, a slice, an array
    or a tensor of integers) and decodes these images: resized so that the shorter side has 8/7 of
    ``size`` pixels (256 for 224), and cropped at the centre.

    Parameters
    ----------
    paths : list of str
        A JPEG file for each image. (Strings: a million path objects take half a gigabyte.)
    size : int
        Height and width of the images that come out, in pixels.
    threads : int
        That decode at the same time.

    Attributes
    ----------
    shape : (int, int, int, int)
        Images, height, width, channels.
    dtype : dtype
        uint8.
    """

    def __init__(self, paths: list[str], size: int = 224, threads: int = _THREADS) -> None:
        self.paths, self.size, self.threads = paths, size, threads
        self.shape = (len(paths), size, size, 3)
        self.dtype = np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, chosen: Any) -> Images:
        indices = np.arange(len(self))[chosen]
        return self.batch(indices) if indices.ndim else self.batch(indices[None])[0]

    def batch(self, indices: Any, rng: np.random.Generator | None = None) -> Images:
        """The images of these indices.

        Parameters
        ----------
        indices : sequence of int
            Which images.
        rng : numpy.random.Generator, optional
            With it, a part of each image is chosen at random (8 % to 100 % of its area, aspect
            ratio 3/4 to 4/3; Szegedy et al., Going Deeper with Convolutions, section 6), scaled
            to the size, and mirrored with probability 1/2: the usual augmentation for training.
            The result depends on the generator's state, not on the number of threads.

        Returns
        -------
        uint8 array (len(indices), size, size, 3)

        Raises
        ------
        DatasetError
            If a file is missing or cannot be decoded; the message names it.
        """
        paths = [self.paths[index] for index in indices]
        # Each image has its own generator, so that the threads' order does not matter.
        rngs = ([None] * len(paths) if rng is None else
                [np.random.default_rng(seed) for seed in rng.integers(2**63, size=len(paths))])
        images = np.empty((len(paths), *self.shape[1:]), np.uint8)
        with ThreadPoolExecutor(self.threads) as pool:      # Pillow leaves the interpreter lock
            for index, image in enumerate(pool.map(self._decode, paths, rngs)):
                images[index] = image
        return images

    def _decode(self, path: str, rng: np.random.Generator | None) -> Images:
        pillow = _pillow()
        try:
            with pillow.open(path, formats=_FORMATS) as file:
                image = file.convert("RGB")
        except FileNotFoundError:
            raise DatasetError(f"{path}: no longer there") from None
        except pillow.UnidentifiedImageError:
            raise DatasetError(f"{path}: not a JPEG file; fetch it again") from None
        except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError) as error:
            raise DatasetError(f"{path}: damaged JPEG file ({error}); fetch it again") from None
        bilinear = pillow.Resampling.BILINEAR
        if rng is not None:
            box = _random_box(image.width, image.height, rng)
            pixels = np.asarray(image.resize((self.size, self.size), bilinear, box))
            return pixels[:, ::-1] if rng.random() < 0.5 else pixels
        scale = self.size * _SHORT_SIDE / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), bilinear)
        left, top = (image.width - self.size) // 2, (image.height - self.size) // 2
        return np.asarray(image.crop((left, top, left + self.size, top + self.size)))


def _pillow() -> Any:
    """The module ``PIL.Image``."""
    try:
        from PIL import Image
    except ImportError:
        raise DatasetError("decoding the files of imagenet takes Pillow, which is not installed: "
                           "pip install 'flightrtl[train]'") from None
    return Image


def _random_box(width: int, height: int, rng: np.random.Generator) -> Box:
    """Left, upper, right and lower border of a random part of an image.

    If none of the first few fits into a very long image, the middle of it, as near to the allowed
    aspect ratios as can be.

    >>> left, top, right, bottom = _random_box(500, 400, np.random.default_rng(0))
    >>> 0 <= left < right <= 500 and 0 <= top < bottom <= 400
    True
    """
    for _ in range(_ATTEMPTS):
        area = width * height * rng.uniform(*_AREA)
        aspect = np.exp(rng.uniform(*np.log(_ASPECT)))
        wide, high = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < wide <= width and 0 < high <= height:
            left, top = rng.integers(width - wide + 1), rng.integers(height - high + 1)
            return float(left), float(top), float(left + wide), float(top + high)
    wide, high = min(width, height * _ASPECT[1]), min(height, width / _ASPECT[0])
    left, top = (width - wide) / 2, (height - high) / 2
    return left, top, left + wide, top + high


def _classes(folder: Path) -> list[str]:
    """Names of the class folders, in the order of their labels."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir())


def read(dataset: Dataset, folder: Path | None, split: str) -> tuple[ImageFolder, Labels]:
    """Images and labels of a split, see :func:`flightrtl.datasets.load`."""
    if folder is None:
        raise DatasetError(f"the files of {dataset.name} cannot be downloaded without an account "
                           "at image-net.org: name the folder that has them (--data DIR)")
    name = _FOLDERS[split]
    places = (data_folder(folder) / dataset.name / name, folder / name)
    place = next((place for place in places if place.is_dir()), None)
    if place is None:
        raise missing(dataset, folder, (f"{dataset.name}/{name}/", f"{name}/"))
    try:
        classes = _classes(place)
        if not classes:
            raise DatasetError(f"{place}: no folders of classes in it; sort the images into one "
                               "folder for each class, named alike in train and in val")
        if len(classes) > dataset.classes:
            raise DatasetError(f"{place}: {len(classes)} folders of classes; {dataset.name} has "
                               f"{dataset.classes}")
        for other in (place.parent / name for name in _FOLDERS.values()):
            if other.is_dir() and (odd := set(classes) ^ set(_classes(other))):
                raise DatasetError(f"{place} and {other} do not have the same classes: only one "
                                   f"has {min(odd)}; labels are places in the sorted list")
        paths: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(classes):
            files = sorted(file for file in os.listdir(place / name)
                           if file.lower().endswith(_SUFFIXES))
            paths += [str(place / name / file) for file in files]
            labels += [label] * len(files)
    except OSError as error:
        raise DatasetError(f"{error.filename}: {error.strerror}") from None
    if not paths:
        raise DatasetError(f"{place}: no {' or '.join(_SUFFIXES)} file in its folders")
    _pillow()       # that it is missing should be said now, not in the first batch
    return ImageFolder(paths, dataset.input.shape[0]), np.array(labels)


IMAGENET = Dataset("imagenet", TensorType((224, 224, 3), ActivationFormat(8), -8), 1000,
                   (1281167, 50000), read)

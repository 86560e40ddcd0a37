"""Image files as a network was trained on them: size, grey-scale, polarity, position, integers.

What is right depends on the data set that a model was trained on, since its images were prepared
in one way and the network knows no other:

``mnist``
    A white figure on black. Its longer side has 20 of 28 pixels, and its centre of mass is in the
    middle (as LeCun, Cortes and Burges describe it with the data).
``digits``
    The same, but a figure fills 8 rows or 6 of the 8 columns, and its frame is in the middle.
``fashion-mnist``
    White on black; the whole picture is fitted in.
any other
    The middle of the picture, as large as the shape allows.

An image that already has the right size is taken as it is, so the data set's own images come out
as they are in its files.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..formats import IntArray
from ..model import Model

__all__ = ["INVERT", "PREPARATIONS", "SUFFIXES", "Preparation", "image_files", "prepare", "read"]

Pixels = NDArray[np.float64]

INVERT = ("auto", "yes", "no")
"""Whether to exchange black and white. ``auto``: where the data set is white on black and the
border of the picture is bright. No image of the test splits of MNIST, Fashion-MNIST and digits has
such a border."""

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif",
                      ".tiff", ".webp"})
"""Names that image files of a folder are known by."""

_MAX_PIXELS = 100_000_000
_BACKGROUND = 0.25      # of the range of a picture: what is darker is no part of the figure


@dataclass(frozen=True)
class Preparation:
    """How the images of a data set came about.

    Parameters
    ----------
    dark : bool
        The background is black.
    figure : (float, float), optional
        The picture is cut to the figure on it, which gets at most this share of the height and
        of the width.
    mass : bool
        The figure's centre of mass is in the middle, not that of its frame.
    """

    dark: bool = False
    figure: tuple[float, float] | None = None
    mass: bool = False


PREPARATIONS: Mapping[str, Preparation] = {
    "mnist": Preparation(dark=True, figure=(20 / 28, 20 / 28), mass=True),
    "digits": Preparation(dark=True, figure=(1.0, 6 / 8)),
    "fashion-mnist": Preparation(dark=True),
}


def read(path: str | os.PathLike[str]) -> Any:
    """The picture in a file, as a ``PIL.Image.Image``: upright, on white where it is transparent.

    Raises
    ------
    UserError
        If there is no such file, or it is no image.
    """
    image, ops, error = _pillow()
    name = os.fspath(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", image.DecompressionBombWarning)
            with image.open(name) as file:
                if file.width * file.height > _MAX_PIXELS:
                    raise UserError(f"{name}: {file.width:,} x {file.height:,} pixels are more "
                                    f"than {_MAX_PIXELS:,}: make it smaller")
                picture = ops.exif_transpose(file)
                picture.load()
    except FileNotFoundError:
        raise UserError(f"{name}: there is no such file") from None
    except IsADirectoryError:
        raise UserError(f"{name}: this is a folder; name the images in it, or `watch` the "
                        "folder") from None
    except error:
        raise UserError(f"{name}: this is not an image (PNG, JPEG, BMP, GIF, PGM, ...)") from None
    except (image.DecompressionBombError, image.DecompressionBombWarning):
        raise UserError(f"{name}: it has too many pixels: make it smaller") from None
    except PermissionError:
        raise UserError(f"{name}: no permission to read it") from None
    except (OSError, SyntaxError, ValueError, EOFError) as problem:
        raise UserError(f"{name}: the image is damaged ({problem})") from None
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = image.new("RGBA", picture.size, "white")
        picture = image.alpha_composite(white, picture).convert("RGB")
    if picture.mode.startswith(("I", "F")):     # 16 bits or more
        values = np.asarray(picture).astype(np.float64)
        values /= 257 if values.max(initial=0) > 255 else 1
        picture = image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
    return picture


def image_files(paths: list[str]) -> list[str]:
    """The paths, each folder among them as the image files in it by name.

    Raises
    ------
    UserError
        For a folder without any.
    """
    files = []
    for path in paths:
        if not os.path.isdir(path):
            files.append(path)
            continue
        inside = sorted(str(each) for each in Path(path).iterdir()
                        if each.suffix.lower() in SUFFIXES and each.is_file())
        if not inside:
            raise UserError(f"{path}: there is no image in this folder")
        files += inside
    return files


def prepare(picture: Any, model: Model, *, invert: str = "auto") -> IntArray:
    """What a model takes for a picture.

    Parameters
    ----------
    picture : PIL.Image.Image
        From :func:`read`, of any size.
    model : Model
        Tells shape, integers and, by its ``dataset``, how such images are prepared.
    invert : {"auto", "yes", "no"}
        See :data:`INVERT`.

    Returns
    -------
    array of int64, (height, width, channels)

    Raises
    ------
    UserError
        If the model takes neither 1 nor 3 channels.
    """
    if invert not in INVERT:
        raise ValueError(f"invert must be one of {', '.join(INVERT)}, not {invert!r}")
    height, width, channels = model.input.shape
    if channels not in (1, 3):
        raise UserError(f"model {model.name!r} takes {channels} channels; an image file has 1 or "
                        "3: give its images through the Python API")
    how = PREPARATIONS.get(str(model.provenance.get("dataset")), Preparation())
    pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"), np.float64)
    pixels = pixels.reshape(*pixels.shape[:2], channels)
    if invert == "yes" or invert == "auto" and how.dark and _bright_border(pixels):
        pixels = 255 - pixels
    if pixels.shape[:2] != (height, width):
        if how.figure is not None:
            pixels = _figure(pixels, (height, width), how.figure, mass=how.mass)
        elif how.dark:
            pixels = _paste(_scaled(pixels, min(height / pixels.shape[0],
                                                width / pixels.shape[1])), (height, width))
        else:
            pixels = _middle(pixels, (height, width))
    return _integers(pixels, model)


def _integers(pixels: Pixels, model: Model) -> IntArray:
    """Brightness 0 to 255 as the model's integers; the data sets' own values come out again."""
    limits = model.input.format
    # White is the real number 1, or as much of it as the format has room for.
    white = min(2.0 ** -model.input.scale, limits.max)
    return np.clip(np.rint(pixels * (white / 255)), limits.min, limits.max).astype(np.int64)


def _bright_border(pixels: Pixels) -> bool:
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return bool(np.median(border) > 127)


def _scaled(pixels: Pixels, scale: float) -> Pixels:
    """Larger or smaller by a factor."""
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    return _resize(pixels, (height, width))


def _resize(pixels: Pixels, shape: tuple[int, int]) -> Pixels:
    """In another size; each pixel of a smaller one is the mean of what it covers."""
    image, _, _ = _pillow()
    smaller = shape[0] * shape[1] < pixels.shape[0] * pixels.shape[1]
    how = image.Resampling.BOX if smaller else image.Resampling.BILINEAR
    planes = [np.asarray(image.fromarray(plane.astype(np.float32)).resize(shape[::-1], how))
              for plane in np.moveaxis(pixels, 2, 0)]
    return np.stack(planes, axis=2).astype(np.float64)


def _paste(pixels: Pixels, shape: tuple[int, int],
           middle: tuple[float, float] | None = None) -> Pixels:
    """A picture on black, with a point of it (or its own middle) in the middle of the image.

    What would lie outside by the shift stays inside, at the edge.
    """
    result = np.zeros((*shape, pixels.shape[2]))
    place = []
    for axis in (0, 1):
        size, room = pixels.shape[axis], shape[axis]
        point = (size - 1) / 2 if middle is None else middle[axis]
        place.append(min(max(round((room - 1) / 2 - point), 0), room - size))
    top, left = place
    result[top:top + pixels.shape[0], left:left + pixels.shape[1]] = pixels
    return result


def _figure(pixels: Pixels, shape: tuple[int, int], share: tuple[float, float], *,
            mass: bool) -> Pixels:
    """The bright figure on a dark picture, in the size and the place of the data set."""
    low, high = float(np.median(pixels)), float(pixels.max())
    if high - low < 16:     # of 255: nothing is on it
        return np.zeros((*shape, pixels.shape[2]))
    pixels = np.clip((pixels - low) * (255 / (high - low)), 0, 255)
    there = pixels.max(axis=2) > 255 * _BACKGROUND
    rows, columns = np.flatnonzero(there.any(axis=1)), np.flatnonzero(there.any(axis=0))
    pixels = pixels[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
    pixels = _scaled(pixels, min(shape[axis] * share[axis] / pixels.shape[axis] for axis in (0, 1)))
    pixels = pixels[:shape[0], :shape[1]]
    middle = None
    if mass and (weights := pixels.sum(axis=2)).any():
        total = weights.sum()
        middle = (float((weights.sum(axis=1) * np.arange(weights.shape[0])).sum() / total),
                  float((weights.sum(axis=0) * np.arange(weights.shape[1])).sum() / total))
    return _paste(pixels, shape, middle)


def _middle(pixels: Pixels, shape: tuple[int, int]) -> Pixels:
    """The middle of a picture, as large as fits, in another size."""
    scale = min(pixels.shape[axis] / shape[axis] for axis in (0, 1))
    box = [max(1, round(side * scale)) for side in shape]
    top, left = ((pixels.shape[axis] - box[axis]) // 2 for axis in (0, 1))
    return _resize(pixels[top:top + box[0], left:left + box[1]], shape)


def _pillow() -> tuple[Any, Any, type[Exception]]:
    """``PIL.Image``, ``PIL.ImageOps`` and the error for files that are no images."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise UserError("reading image files takes Pillow, which is not installed: "
                        "pip install 'flightrtl[host]'") from None
    return Image, ImageOps, Image.UnidentifiedImageError

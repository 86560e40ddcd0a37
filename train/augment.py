"""Random changes of training images that leave their class alone.

All values stay integers in the range of the images, so that a network never sees an input which
the hardware could not be given, and what comes in from outside is zero. All randomness comes from
the generator that is passed, also for images on another device than it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from flightrtl.datasets import ImageFolder

__all__ = ["STANDARD", "affine", "crop_flip", "cutout", "take"]

STANDARD: dict[str, dict[str, float | bool]] = {
    "digits": {},
    "mnist": {"augmentation": 1.0},
    "fashion-mnist": {"augmentation": 0.3},
    "cifar10": {"crop": 4, "flip": True},
    "cifar100": {"crop": 4, "flip": True},
    "svhn": {"crop": 4},
    "imagenet": {},
}
"""For each data set, the values of a :class:`~train.recipe.Recipe` that suit it.

CIFAR: crop and flip are what nearly every publication uses (n-BQ-NN, section 4: random crop and
flip). Digits must not be flipped: the mirror image of a 2 is no digit. n-BQ-NN trains on SVHN and
MNIST without augmentation: set ``crop`` and ``augmentation`` to 0 to compare with it. The random
parts of ImageNet's images are chosen when these are decoded, see :func:`take`.
"""

_ROTATION = 0.20        # radians
_SHEAR = 0.15
_ZOOM = 0.12
_ASPECT = 0.08
_SHIFT = 0.16           # of half the image: 2.2 pixels of 28


def affine(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Rotate, shear, zoom, stretch and shift each image by its own random amounts.

    Values are interpolated and rounded to integers again.

    Parameters
    ----------
    images : Tensor, (N, C, H, W)
        Integers in float32.
    strength : float
        1: up to 0.2 radians, 12 % zoom and 2.2 pixels of 28; 0 changes nothing.
    generator : torch.Generator
        Gives all the randomness.
    """
    if not strength:
        return images

    def draw(extent: float) -> Tensor:
        values = torch.rand(len(images), generator=generator, device=generator.device)
        return (values * 2 - 1) * (extent * strength)

    angle, zoom, shear, aspect = draw(_ROTATION), 1 + draw(_ZOOM), draw(_SHEAR), 1 + draw(_ASPECT)
    cosine, sine = angle.cos() * zoom, angle.sin() * zoom
    first = torch.stack([cosine * aspect, shear * zoom - sine, draw(_SHIFT)], dim=1)
    second = torch.stack([sine, cosine / aspect, draw(_SHIFT)], dim=1)
    grid = functional.affine_grid(torch.stack([first, second], dim=1).to(images.device),
                                  list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False).round_()


def crop_flip(images: Tensor, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Shift each image by up to ``padding`` pixels each way, and mirror half of them.

    The same as padding with zeros on all sides and cutting an image of the old size out of it at
    random (He et al., Deep Residual Learning, section 4.2: 4 pixels of 32).

    Parameters
    ----------
    images : Tensor, (N, C, H, W)
        Of any number type.
    padding : int
        Pixels; 0 leaves the images where they are.
    flip : bool
        Whether to mirror left and right, each image with probability 1/2.
    generator : torch.Generator
        Gives all the randomness.

    Examples
    --------
    >>> image = torch.tensor([[[[1, 2], [3, 4]]]])
    >>> crop_flip(image, 1, True, torch.Generator().manual_seed(3)).tolist()
    [[[[0, 2], [0, 4]]]]
    """
    count, _, height, width = images.shape
    device = generator.device
    if padding:
        top, left = torch.randint(2 * padding + 1, (2, count), generator=generator,
                                  device=device).to(images.device)
        padded = functional.pad(images, [padding] * 4)
        # All that could be cut out, as a view; choosing copies whole rows.
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        images = windows[torch.arange(count, device=images.device), :, top, left]
    if flip:
        mirrored = torch.rand(count, generator=generator, device=device) < 0.5
        images = torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(3),
                             images)
    return images


def cutout(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Set a square of each image to zero (DeVries and Taylor, arXiv 1708.04552).

    Its centre is any pixel of the image, so that a part of it can lie outside.

    Parameters
    ----------
    images : Tensor, (N, C, H, W)
        Of any number type.
    size : int
        Height and width of the square in pixels; 0 changes nothing.
    generator : torch.Generator
        Gives all the randomness.

    Examples
    --------
    >>> cutout(torch.ones(1, 1, 3, 3), 2, torch.Generator().manual_seed(0)).tolist()
    [[[[1.0, 1.0, 1.0], [0.0, 1.0, 1.0], [0.0, 1.0, 1.0]]]]
    """
    if not size:
        return images

    def covered(extent: int) -> Tensor:
        """Rows or columns of each image that the square covers."""
        first = torch.randint(extent, (len(images), 1), generator=generator,
                              device=generator.device) - size // 2
        place = torch.arange(extent, device=generator.device)
        return ((first <= place) & (place < first + size)).to(images.device)

    rows, columns = covered(images.shape[2]), covered(images.shape[3])
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)


def take(images: Tensor | ImageFolder, chosen: Tensor, generator: torch.Generator) -> Tensor:
    """Training images of these indices, (n, C, H, W), not yet augmented.

    Parameters
    ----------
    images : Tensor (N, C, H, W) or ImageFolder
        In memory, or in files. Of an image in a file, a random part is taken, see
        :meth:`flightrtl.datasets.ImageFolder.batch`.
    chosen : Tensor of int64, (n,)
        Which images.
    generator : torch.Generator
        Gives all the randomness.
    """
    if isinstance(images, Tensor):
        return images[chosen]
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    pixels = images.batch(chosen.cpu().numpy(), np.random.default_rng(int(seed)))
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)

"""Augmentation: every result is one of those that are possible, and all of those occur."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from flightrtl.datasets import DATASETS, ImageFolder
from train.augment import STANDARD, affine, crop_flip, cutout, take


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def distinct(count, channels=2, height=3, width=4, dtype=torch.int32):
    """Images all of whose values are different, and none of them 0."""
    size = count * channels * height * width
    return torch.arange(1, size + 1, dtype=dtype).reshape(count, channels, height, width)


def variants(image, padding, flip):
    """Each result that cropping and mirroring of an image may have."""
    channels, height, width = image.shape
    padded = np.zeros((channels, height + 2 * padding, width + 2 * padding), np.int64)
    padded[:, padding:padding + height, padding:padding + width] = image
    for top, left in itertools.product(range(2 * padding + 1), repeat=2):
        part = padded[:, top:top + height, left:left + width]
        yield part
        if flip:
            yield part[:, :, ::-1]


@pytest.mark.parametrize(("padding", "flip"), [(1, True), (2, False), (2, True), (0, True)])
def test_crop_and_flip_give_each_variant_equally_often(padding, flip):
    count = 4000
    images = distinct(1).expand(count, -1, -1, -1)
    keys = {part.tobytes(): 0 for part in variants(images[0].numpy(), padding, flip)}
    for image in crop_flip(images, padding, flip, generator()).numpy().astype(np.int64):
        keys[image.tobytes()] += 1          # a KeyError: not a possible result
    expected = count / len(keys)
    assert len(keys) == (2 * padding + 1) ** 2 * (2 if flip else 1)
    assert max(abs(number - expected) for number in keys.values()) < 4.5 * expected ** 0.5


def test_each_image_stays_in_its_place():
    images = distinct(50)
    for before, after in zip(images.numpy(), crop_flip(images, 1, True, generator()).numpy(),
                             strict=True):
        assert any(np.array_equal(after, part) for part in variants(before, 1, True))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("change", [
    lambda images, seed: crop_flip(images, 2, True, generator(seed)),
    lambda images, seed: cutout(images, 2, generator(seed)),
])
def test_a_seed_decides(dtype, change):
    images = distinct(10, dtype=dtype)
    before = images.clone()
    first = change(images, 0)
    assert first.dtype == dtype
    assert first.shape == images.shape
    assert torch.equal(first, change(images, 0))
    assert not torch.equal(first, change(images, 1))
    assert torch.equal(images, before)      # the data set itself must not change


def test_nothing_to_do():
    images = distinct(3)
    unused = generator()
    state = unused.get_state()
    assert torch.equal(crop_flip(images, 0, False, unused), images)
    assert torch.equal(cutout(images, 0, unused), images)
    assert affine(images, 0.0, unused) is images
    assert torch.equal(unused.get_state(), state)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_cutout(size):
    """The same square in all channels, around a centre that is anywhere in the image."""
    height, width = 4, 5
    images = distinct(1, 2, height, width).expand(3000, -1, -1, -1)
    expected = set()
    for row, column in itertools.product(range(height), range(width)):
        mask = np.ones((2, height, width), np.int64)
        top, left = row - size // 2, column - size // 2
        mask[:, max(top, 0):top + size, max(left, 0):left + size] = 0
        expected.add((images[0].numpy() * mask).tobytes())
    found = {image.tobytes() for image in
             cutout(images, size, generator()).numpy().astype(np.int64)}
    assert found == expected


def test_affine():
    images = torch.randint(0, 256, (6, 1, 28, 28), generator=generator()).float()
    changed = affine(images, 1.0, generator(1))
    assert torch.equal(changed, affine(images, 1.0, generator(1)))
    assert not torch.equal(changed, images)
    assert torch.equal(changed, changed.round())
    assert changed.min() >= 0
    assert changed.max() <= 255


def test_standard():
    """There is one for every data set; what has a direction is not mirrored."""
    assert set(STANDARD) == set(DATASETS)
    assert {name for name, values in STANDARD.items() if values.get("flip")} == {"cifar10",
                                                                                "cifar100"}


def test_take_from_memory():
    images = distinct(5)
    assert torch.equal(take(images, torch.tensor([4, 0]), generator()), images[[4, 0]])


def test_take_from_files(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 50, 3), dtype=np.uint8)
    paths = [str(tmp_path / f"{index}.jpeg") for index in range(2)]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    images = ImageFolder(paths, size=16)
    chosen = torch.tensor([1, 0, 1])
    found = take(images, chosen, generator())
    assert found.shape == (3, 3, 16, 16)
    assert found.dtype == torch.uint8
    assert torch.equal(found, take(images, chosen, generator()))
    assert not torch.equal(found[0], found[2])      # each time another part of an image
    assert not torch.equal(found, take(images, chosen, generator(1)))

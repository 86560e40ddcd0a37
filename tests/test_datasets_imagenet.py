"""ImageNet's folders: small JPEG files, and what is made of them."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from flightrtl.datasets import DATASETS, DatasetError, ImageFolder, imagenet, load
from sim.images import choose

Image = pytest.importorskip("PIL.Image")

RED, GREEN, BLUE = (250, 10, 10), (10, 250, 10), (10, 10, 250)


def write(path, *bands, size=(60, 40), mode="RGB", kind="JPEG"):
    """An image of vertical bands of equal width."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size)
    for index, colour in enumerate(bands):
        image.paste(colour, (index * size[0] // len(bands), 0, size[0], size[1]))
    image.convert(mode).save(path, kind, **({"quality": 95} if kind == "JPEG" else {}))


@pytest.fixture
def folder(tmp_path):
    """Two classes; the one whose name sorts first has one image in each split."""
    for split in ("train", "val"):
        write(tmp_path / "imagenet" / split / "n02" / "b.JPEG", GREEN)
        write(tmp_path / "imagenet" / split / "n02" / "a.JPEG", BLUE)
        write(tmp_path / "imagenet" / split / "n01" / "c.jpg", RED)
    (tmp_path / "imagenet" / "val" / "n01" / "notes.txt").write_text("not an image")
    return tmp_path


def near(image, colour):
    return np.abs(image.astype(int) - colour).max() < 12


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("inside", ["", "imagenet"])
def test_order_and_labels(folder, split, inside):
    images, labels = load("imagenet", folder / inside, split)
    assert labels.tolist() == [0, 1, 1]
    assert images.shape == (3, *DATASETS["imagenet"].input.shape)
    assert len(images) == 3
    assert images.dtype == np.uint8
    for image, colour in zip(images[:], (RED, BLUE, GREEN), strict=True):
        assert near(image, colour)


def test_indices(folder):
    images, _ = load("imagenet", folder)
    everything = images[:]
    assert everything.shape == images.shape
    assert everything.dtype == np.uint8
    for chosen in (slice(1, None), [2, 0], np.array([1, 1, 0]), np.array([True, False, True]), -1,
                   1):
        assert np.array_equal(images[chosen], everything[chosen])
    assert images[[]].shape == (0, *images.shape[1:])
    with pytest.raises(IndexError):
        images[3]


def test_the_simulator_takes_some(folder):
    images, labels = load("imagenet", folder)
    model = SimpleNamespace(name="photos", input=DATASETS["imagenet"].input)
    taken, theirs = choose(model, 2, dataset="imagenet", folder=folder)
    assert np.array_equal(taken, images[:2])
    assert np.array_equal(theirs, labels[:2])


def test_a_tensor_as_index(folder):
    torch = pytest.importorskip("torch")
    images, _ = load("imagenet", folder)
    assert np.array_equal(images[torch.tensor([2, 0])], images[[2, 0]])


@pytest.mark.parametrize("size", [(1024, 512), (600, 300), (300, 150), (512, 1024)])
def test_centre(tmp_path, size):
    """The shorter side becomes 256, of which the middle 224 remain.

    Of an image twice as wide as high, that leaves 224 of 512 columns: the middle of three bands,
    which is 171 columns wide, and 26 or 27 columns on both sides of it.
    """
    write(tmp_path / "image", RED, GREEN, BLUE, size=size)
    image = ImageFolder([str(tmp_path / "image")])[0]
    row = image[112].argmax(axis=1)
    edges = np.flatnonzero(np.diff(row))
    assert row[0] == 0
    assert row[-1] == 2
    width = round(size[0] * 256 / min(size))
    for edge, third in zip(edges, (1, 2), strict=True):
        assert abs(edge - (width * third / 3 - (width - 224) / 2)) <= 2


def test_resized_and_cropped_as_by_hand(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    path = tmp_path / "image"
    Image.fromarray(pixels).save(path, "PNG")
    expected = Image.fromarray(pixels).resize((341, 256), Image.Resampling.BILINEAR)
    expected = np.asarray(expected)[16:240, 58:282]
    assert np.array_equal(ImageFolder([str(path)])[0], expected)


@pytest.mark.parametrize(("mode", "kind"), [("L", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "PNG")])
def test_other_kinds_of_pixels(tmp_path, mode, kind):
    """The original files have grey and CMYK images among them, and a PNG file called .JPEG."""
    write(tmp_path / "image.JPEG", (200, 200, 200), mode=mode, kind=kind)
    assert near(ImageFolder([str(tmp_path / "image.JPEG")])[0], (200, 200, 200))


def test_random_parts_depend_on_the_generator_alone(tmp_path):
    write(tmp_path / "image", *[(level, 0, 255 - level) for level in range(0, 256, 8)],
          size=(320, 240))
    images = [ImageFolder([str(tmp_path / "image")] * 12, threads=threads) for threads in (1, 3)]
    first = images[0].batch(range(12), np.random.default_rng(7))
    assert np.array_equal(first, images[1].batch(range(12), np.random.default_rng(7)))
    assert not np.array_equal(first, images[0].batch(range(12), np.random.default_rng(8)))
    assert len({image.tobytes() for image in first}) == 12
    rng = np.random.default_rng(7)
    state = rng.bit_generator.state
    images[0].batch(range(3), rng)
    rng.bit_generator.state = state
    assert np.array_equal(images[0].batch(range(12), rng), first)       # as after a resume
    rising = [image[0, -1, 0] > image[0, 0, 0] for image in first]
    assert 0 < sum(rising) < 12         # some are mirrored


def test_random_boxes():
    """Area and aspect ratio as published, inside the image; a long image gives its middle."""
    rng = np.random.default_rng(0)
    boxes = np.array([imagenet._random_box(500, 375, rng) for _ in range(1000)])
    wide, high = (boxes[:, 2:] - boxes[:, :2]).T
    assert boxes.min() == 0
    assert boxes[:, 2].max() == 500
    assert boxes[:, 3].max() == 375
    share = wide * high / (500 * 375)
    assert 0.075 < share.min() < 0.1
    assert 0.9 < share.max() <= 1
    assert 0.74 < (wide / high).min() < 0.77
    assert 1.30 < (wide / high).max() < 1.35
    assert imagenet._random_box(4000, 30, rng) == (1980, 0, 2020, 30)
    assert imagenet._random_box(30, 4000, rng) == (0, 1980, 30, 2020)


@pytest.mark.parametrize(("damage", "message"), [
    (lambda data: data[:len(data) // 2], "damaged JPEG file"),
    (lambda data: data[:20], "JPEG file"),
    (lambda data: b"", "not a JPEG file; fetch it again"),
    (lambda data: b"<html>not found</html>", "not a JPEG file; fetch it again"),
])
def test_a_damaged_file_is_named(folder, damage, message):
    path = folder / "imagenet" / "val" / "n02" / "b.JPEG"
    path.write_bytes(damage(path.read_bytes()))
    images, _ = load("imagenet", folder)
    assert near(images[1], BLUE)
    with pytest.raises(DatasetError, match=message) as error:
        images[[0, 2]]
    assert str(path) in str(error.value)
    path.unlink()
    with pytest.raises(DatasetError, match="no longer there") as error:
        images.batch([2], np.random.default_rng(0))
    assert str(path) in str(error.value)


def test_missing_folders(tmp_path, folder):
    with pytest.raises(DatasetError, match=r"image-net.org: name the folder .*--data DIR"):
        load("imagenet")
    with pytest.raises(DatasetError, match="no such folder"):
        load("imagenet", tmp_path / "nothing")
    (tmp_path / "other" / "train").mkdir(parents=True)
    with pytest.raises(DatasetError, match="neither imagenet/val/ nor val/; put the files"):
        load("imagenet", tmp_path / "other")
    with pytest.raises(DatasetError, match="no folders of classes in it; sort the images"):
        load("imagenet", tmp_path / "other", "train")
    (tmp_path / "other" / "train" / "n01").mkdir()
    with pytest.raises(DatasetError, match=r"no .jpeg or .jpg file in its folders"):
        load("imagenet", tmp_path / "other", "train")


def test_both_splits_must_have_the_same_classes(folder):
    (folder / "imagenet" / "val" / "n015").mkdir()
    for split in ("train", "test"):
        with pytest.raises(DatasetError, match="only one has n015"):
            load("imagenet", folder, split)


def test_too_many_classes(tmp_path):
    for index in range(1001):
        (tmp_path / "val" / f"n{index}").mkdir(parents=True)
    with pytest.raises(DatasetError, match="1001 folders of classes; imagenet has 1000"):
        load("imagenet", tmp_path)


def test_without_pillow(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DatasetError, match=r"takes Pillow, .*flightrtl\[train\]"):
        load("imagenet", folder)

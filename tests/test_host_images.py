"""Image files become what a network was trained on."""

import dataclasses

import numpy as np
import pytest

from flightrtl import datasets, golden, modelfile, samples
from flightrtl.errors import UserError
from flightrtl.formats import ActivationFormat
from flightrtl.host.images import image_files, prepare, read
from flightrtl.model import TensorType

Image = pytest.importorskip("PIL.Image", reason="extra host")

WHITE = {"digits": 16}


def picture(image, name):
    """A data set's image as a picture."""
    values = np.rint(image.astype(float) * 255 / WHITE.get(name, 255)).astype(np.uint8)
    return Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)


@pytest.mark.parametrize("name", samples.names())
def test_the_data_set_s_own_images_come_out_as_they_are(name):
    model, (images, _) = modelfile.load(name), samples.load(name)
    for image in images[:60]:
        assert np.array_equal(prepare(picture(image, name), model), image)


@pytest.mark.parametrize(("name", "least"), [("mnist", 0.98), ("digits", 0.95)])
def test_figures_in_ink_on_a_large_page(name, least):
    """Black on bright paper, four times as large, anywhere on the page."""
    model, (images, labels) = modelfile.load(name), samples.load(name)
    rng = np.random.default_rng(1)
    found = []
    for image in images[:120]:
        ink = 250 - np.asarray(picture(image, name).resize(
            [4 * side for side in image.shape[:2]], Image.Resampling.BICUBIC)).astype(int)
        page = np.full((2 * ink.shape[0], 3 * ink.shape[1]), 250)
        top, left = rng.integers(ink.shape[0]), rng.integers(2 * ink.shape[1])
        page[top:top + ink.shape[0], left:left + ink.shape[1]] = ink
        found.append(prepare(Image.fromarray(np.clip(page, 0, 255).astype(np.uint8)), model))
    assert golden.top1(model, np.array(found), labels[:120]) >= least


def test_the_middle_of_a_photograph():
    model, images = modelfile.load("cifar10"), samples.load("cifar10")[0]
    found = []
    for image in images[:40]:
        wide = np.zeros((96, 160, 3), np.uint8)
        wide[:, 32:128] = image.repeat(3, axis=0).repeat(3, axis=1)
        found.append(prepare(Image.fromarray(wide), model))
    assert np.array_equal(np.array(found), images[:40])


def test_black_and_white_are_exchanged_where_that_is_meant():
    model, image = modelfile.load("fashion-mnist"), samples.load("fashion-mnist")[0][0]
    negative = Image.fromarray(255 - image[..., 0])
    assert np.array_equal(prepare(negative, model), image)
    assert np.array_equal(prepare(negative, model, invert="no"), 255 - image)
    assert np.array_equal(prepare(negative, model, invert="yes"), image)
    with pytest.raises(ValueError, match="invert must be one of auto, yes, no"):
        prepare(negative, model, invert="maybe")


@pytest.mark.parametrize("fmt", [ActivationFormat(4), ActivationFormat(12, True),
                                 ActivationFormat(1), ActivationFormat(16)])
def test_integers_of_other_formats(fmt):
    scale = -(fmt.bits - fmt.signed)
    model = dataclasses.replace(modelfile.load("mnist"),
                                input=TensorType((2, 2, 1), fmt, scale), provenance={})
    values = prepare(Image.fromarray(np.array([[0, 255], [128, 64]], np.uint8)), model)
    assert values.min() == 0
    assert values.max() == fmt.max
    assert values[1, 0, 0] == round(128 / 255 * min(2.0 ** -scale, fmt.max))


def test_an_empty_page_is_an_empty_image():
    model = modelfile.load("mnist")
    for grey in (0, 120, 255):
        page = Image.fromarray(np.full((50, 70), grey, np.uint8))
        assert not prepare(page, model).any()


def test_shapes_that_no_picture_has():
    model = dataclasses.replace(modelfile.load("mnist"), input=TensorType((4, 4, 2)))
    with pytest.raises(UserError, match="takes 2 channels"):
        prepare(Image.new("L", (4, 4)), model)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (27, 29)])
@pytest.mark.parametrize("name", ["mnist", "cifar10", "fashion-mnist"])
def test_strange_sizes(name, size):
    model = modelfile.load(name)
    rng = np.random.default_rng(0)
    page = Image.fromarray(rng.integers(256, size=size[::-1]).astype(np.uint8))
    assert prepare(page, model).shape == model.input.shape


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "pgm", "tif", "webp"])
def test_files_of_all_kinds(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(np.full((5, 4), 200, np.uint8)).save(path)
    found = np.asarray(read(path).convert("L"))
    assert found.shape == (5, 4)
    assert abs(int(found[2, 2]) - 200) <= 2


def test_transparency_16_bits_and_rotation(tmp_path):
    clear = np.zeros((3, 3, 4), np.uint8)
    clear[1, 1] = 0, 0, 0, 255
    Image.fromarray(clear).save(tmp_path / "clear.png")
    assert np.asarray(read(tmp_path / "clear.png").convert("L")).tolist() == [
        [255, 255, 255], [255, 0, 255], [255, 255, 255]]
    Image.fromarray(np.array([[0, 257, 65535]], np.uint16)).save(tmp_path / "deep.png")
    assert np.asarray(read(tmp_path / "deep.png")).tolist() == [[0, 1, 255]]
    turned = Image.new("L", (4, 2))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert read(tmp_path / "turned.jpg").size == (2, 4)


def test_what_is_no_image(tmp_path):
    text = tmp_path / "text.png"
    text.write_text("no image")
    half = tmp_path / "half.png"
    Image.fromarray(np.random.default_rng(0).integers(256, size=(64, 64)).astype(np.uint8)).save(
        half)
    half.write_bytes(half.read_bytes()[:2000])
    huge = tmp_path / "huge.pgm"
    huge.write_bytes(b"P5 60000 60000 255\n")
    for path, message in ((text, "is not an image"), (half, "the image is damaged"),
                          (huge, "too many pixels|more than"), (tmp_path, "is a folder"),
                          (tmp_path / "none.png", "there is no such file")):
        with pytest.raises(UserError, match=message):
            read(path)


def test_folders_are_their_images(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt"):
        (tmp_path / name).touch()
    empty = tmp_path / "empty"
    empty.mkdir()
    assert image_files(["x.png", str(tmp_path)]) == [
        "x.png", str(tmp_path / "a.JPG"), str(tmp_path / "b.png")]
    with pytest.raises(UserError, match="there is no image in this folder"):
        image_files([str(empty)])


def test_names_of_classes():
    for dataset in datasets.DATASETS.values():
        assert len(dataset.class_names) in (0, dataset.classes)

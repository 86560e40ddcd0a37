# amaranth: UnusedElaboratable=no
"""Models loaded into a running design: a host, a simulated board, and what can go wrong."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from flightrtl import boards, golden, modelfile
from flightrtl.blank import DESIGN, BlankDesign
from flightrtl.contents import Misfit, Shape
from flightrtl.errors import UserError
from flightrtl.formats import ActivationFormat
from flightrtl.host import __main__ as host
from flightrtl.host import weights
from flightrtl.host.device import Device, DeviceError
from flightrtl.host.weights import find_shape, load_weights
from flightrtl.loadable import loadable
from flightrtl.planner import plan
from flightrtl.progress import Progress
from flightrtl.protocol import Frame, Type
from sim import compiler, serve
from sim.faulty import FaultyLine
from sim.serve import make_board, serving
from tests.fakeboard import FakeBoard
from tests.models import random_images, random_model
from tests.test_loadable import other_model, small

BAUD = 10_000_000       # 10 cycles a bit

needs_compiler = pytest.mark.skipif(compiler.search() is None, reason=compiler.INSTALL)


class Trained:
    """A model with its file, and images with their logits."""

    def __init__(self, model, path, seed):
        modelfile.save(model, path)
        self.model, self.path, self.sha256 = model, path, modelfile.sha256(path)
        self.images = random_images(np.random.default_rng(seed), model, 6)
        self.logits = [tuple(each) for each in golden.run(model, self.images).tolist()]

    def is_on(self, device):
        """Every logit of its images is right, the first one's too."""
        found = [device.classify(image).logits for image in self.images]
        assert device.identity.model.hex() == self.sha256[:16]
        return found == self.logits


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def pair(folder):
    """Two models of one shape."""
    _, model = small(0)
    first = Trained(model, folder / "first.safetensors", 1)
    second = Trained(other_model(model), folder / "second.safetensors", 1)
    assert first.logits != second.logits
    return first, second


@pytest.fixture(scope="module")
def board(folder, pair):
    """A virtual board with the first model, which knows what it is; tests leave any on it."""
    return make_board(str(pair[0].path), "ecp5", baud=BAUD, target_rate=1000,
                      output=folder / "design", progress=Progress())


@pytest.fixture
def shape(board, folder):
    return BlankDesign.load(folder / "design").shape


def open_device(board, model=None, **options):
    return Device(FaultyLine(board), any_model=model is None, **options) if model is None else (
        Device(FaultyLine(board), model.model, sha256=model.sha256, **options))


def shape_of(model):
    made = loadable(model, "ice40", writable=True)
    return Shape.of(made, plan(made, boards.load("icebreaker"), target_rate=1000))


@needs_compiler
def test_models_are_swapped_and_both_classify_their_images(board, pair, folder):
    first, second = pair
    device = open_device(board, first)
    assert first.is_on(device)
    shape = find_shape(device, folder / "design")
    for model in (second, first, second):
        sent = load_weights(device, model.model, model.sha256, shape)
        assert sent >= sum(len(each.as_bytes()) for each in shape.network(
            shape.fit(model.model)).memories)
        assert model.is_on(device)
        assert model.is_on(open_device(board, model))
    with pytest.raises(UserError, match="the board has another model"):
        open_device(board, first)


@needs_compiler
def test_a_host_that_vanishes_leaves_a_board_that_refuses(board, pair, shape):
    first, second = pair
    device = open_device(board)
    load_weights(device, first.model, first.sha256, shape)

    class Vanished(Exception):
        pass

    def vanish(text):
        if text.startswith("3 of"):
            device.port.write(b"\x7e\x05\x00\x00")      # in the middle of a request
            raise Vanished

    with pytest.raises(Vanished):
        load_weights(device, second.model, second.sha256, shape, vanish)
    for model in pair:
        with pytest.raises(UserError, match=r"there is no model on the board.*load-weights"):
            open_device(board, model)
        device = Device(FaultyLine(board), model.model)
        assert not any(device.identity.model)
        with pytest.raises(DeviceError, match=r"WEIGHTS_INCOMPLETE(.|\n)*load-weights"):
            device.classify(model.images[0])
    load_weights(device, second.model, second.sha256, shape)
    assert second.is_on(device)


@needs_compiler
def test_loading_over_a_bad_line(board, pair, shape):
    line = FaultyLine(board, seed=3)
    device = Device(line, any_model=True)
    for rate, model in ((0.2, pair[0]), (0.3, pair[1])):
        line.rate = rate
        load_weights(device, model.model, model.sha256, shape)
        line.rate = 0.0
        assert model.is_on(device)
    assert device.statistics.retried >= 5
    assert line.unanswered == 0


@needs_compiler
def test_what_is_out_of_range_does_no_harm(board, pair, shape):
    first = pair[0]
    device = open_device(board)
    load_weights(device, first.model, first.sha256, shape)
    memories = shape.network(shape.fit(first.model)).memories
    noise = bytes(range(device.load_bytes))
    for number in (len(memories), 0x80, 0xFF):
        device.load(number, 0, noise)
    for number, memory in enumerate(memories):
        size = memory.depth * memory.stride
        for address in {size, 2 * size, 0x8000, 0x10000 - len(noise)}:
            device.load(number, address, noise)
    device.commit(first.model, first.sha256)
    assert first.is_on(device)


@needs_compiler
def test_models_that_do_not_fit_are_refused_before_anything_is_sent(board, pair, shape):
    model = pair[0].model
    *others, dense = model.layers
    device = open_device(board)
    sent = device.statistics.requests
    wrong = replace(model, layers=(*others, replace(dense, shift=dense.shift + 9)))
    for model, message in ((wrong, "has shifts of"), (modelfile.load("digits"), "the image has")):
        with pytest.raises(Misfit, match=f"does not fit this design .*{message}"):
            load_weights(device, model, "00" * 32, shape)
    assert device.statistics.requests == sent


@needs_compiler
def test_the_command(board, pair, folder, monkeypatch, capsys):
    monkeypatch.setattr(weights, "BUILDS", folder / "build")
    shutil.copytree(folder / "design", folder / "build" / "icestick" / "mine")
    (folder / "build" / "a" / "b").mkdir(parents=True)
    (folder / "build" / "a" / "b" / DESIGN).write_text("{")
    second = pair[1]
    pytest.importorskip("serial", reason="extra host")
    with serving(board) as server:
        line = ["--port", server.path, "--baud", str(BAUD)]
        for more in ([], ["--design", str(folder / "design")]):
            assert host.main(["load-weights", str(second.path), *more, "--json", *line]) == 0
            assert json.loads(capsys.readouterr().out)["sha256"] == second.sha256
        assert host.main(["bench", "--model", str(second.path), "--images", "3", *line]) == 0
        assert host.main(["identify", *line]) == 0
        assert "weights can be loaded" in capsys.readouterr().out


def test_a_board_that_says_another_model_afterwards(pair):
    first = pair[0]

    def lie(request, reply):
        return [FakeBoard().answer(request).encode() if request.type == Type.IDENTIFY else reply]

    with pytest.raises(DeviceError, match="after .* was loaded"):
        open_device(FakeBoard(design="12" * 8, replies=lie)).commit(first.model, first.sha256)


def test_designs_that_are_not_the_board_s(pair, folder, monkeypatch):
    monkeypatch.setattr(weights, "BUILDS", folder / "nothing")
    shape = shape_of(modelfile.load("digits"))
    BlankDesign(shape, "ice40", ()).save(folder)
    with pytest.raises(UserError, match=r"weights of the design .* are fixed.*--weights loadable"):
        find_shape(open_device(FakeBoard()))
    device = open_device(FakeBoard(design="12" * 8))
    with pytest.raises(UserError, match=r"no folder .* \(shape (12){8}\).*--design"):
        find_shape(device)
    with pytest.raises(UserError, match=rf"shape (12){{8}}\) is not the one in .*{shape.hash}"):
        find_shape(device, folder)
    with pytest.raises(UserError, match="holds no design"):
        find_shape(device, folder / "nothing")
    device = open_device(FakeBoard(design=shape.hash))
    assert find_shape(device, folder) == shape


def test_pieces_are_as_long_as_an_image():
    """As the device wants them; and every byte is in one of them."""
    board = FakeBoard(design="12" * 8)
    shape = shape_of(board.model)
    device = open_device(board)
    load_weights(device, board.model, board.sha256, shape)
    *pieces, last = board.loaded
    assert {len(request.body) for request in pieces} == {Frame.of(board.model).image_bytes}
    assert (last.type, last.body.hex()) == (Type.COMMIT, board.sha256[:16])
    for number, memory in enumerate(shape.network(shape.fit(board.model)).memories):
        there = bytearray(1 << 16)
        for body in (request.body for request in pieces if request.body[0] == number):
            address = int.from_bytes(body[1:3], "little")
            there[address:address + len(body) - 3] = body[3:]
        data = memory.as_bytes()
        assert there[:len(data)] == data
        assert len(there) == 1 << 16
        assert not any(there[memory.depth * memory.stride:])


def test_a_board_of_fixed_weights_says_so():
    device = open_device(FakeBoard())
    with pytest.raises(DeviceError, match="NOT_LOADABLE"):
        device.load(0, 0, bytes(device.load_bytes))


@pytest.mark.parametrize(("arguments", "message"), [
    (["digits", "--output", "x"], "--output is for --weights loadable"),
    (["nope", "--weights", "loadable"], "model 'nope' cannot be used"),
])
def test_wrong_requests_to_serve(arguments, message):
    with pytest.raises(UserError, match=message):
        serve.main(arguments)


def test_serve_says_of_which_model_no_weights_can_be_loaded(tmp_path):
    tiny = random_model(np.random.default_rng(1), input_shape=(1, 1, 3), kinds=["dense"],
                        input_format=ActivationFormat(8), name="tiny")
    modelfile.save(tiny, tmp_path / "tiny.safetensors")
    with pytest.raises(UserError, match="image of model 'tiny' is too small for weights to be"):
        make_board(str(tmp_path / "tiny.safetensors"), "ecp5", baud=BAUD,
                   output=tmp_path / "design", progress=Progress())
    assert not (tmp_path / "design").exists()

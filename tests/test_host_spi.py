# amaranth: UnusedElaboratable=no
"""The host on an SPI bus, with the simulated gateware behind a stand-in for spidev."""

import json
import random
import sys
import types
from fractions import Fraction

import numpy as np
import pytest

from flightrtl import boards, golden, modelfile, planner, samples
from flightrtl.errors import UserError
from flightrtl.gateware.spi import CYCLES_PER_BIT, SpiPeripheral
from flightrtl.host import connect
from flightrtl.host.__main__ import main
from flightrtl.host.device import Answer, DeviceError, NoAnswer
from flightrtl.protocol import FLAG, Identity
from flightrtl.top import SerialNetwork
from sim import compiler, cxxrtl
from tests.fakeboard import FakeBoard

IMAGES = samples.load("digits")[0]
LOGITS = golden.run(modelfile.load("digits"), IMAGES)
CLOCK_MHZ = 84
FASTEST = f"spi:/dev/spidev0.0:{CLOCK_MHZ / CYCLES_PER_BIT:g}"


class Bus:
    """What spidev's ``SpiDev`` has, as far as it is used."""

    mode = max_speed_hz = -1

    def __init__(self):
        self.opened = None

    def byte(self, value):
        raise NotImplementedError

    def open(self, bus, select):
        self.opened = bus, select

    def close(self):
        self.opened = None

    def xfer2(self, values):
        assert type(values) is list
        assert 0 < len(values) <= 4096
        assert self.opened
        assert self.mode == 0
        return [self.byte(value) for value in values]


class BoardBus(Bus):
    """A board of Python: it answers in the bytes that follow a request."""

    board: FakeBoard

    def __init__(self):
        super().__init__()
        self.out = b""

    def byte(self, value):
        self.board.send(bytes([value]))
        self.out += self.board.run(1)
        sent, self.out = self.out[:1] or bytes([FLAG]), self.out[1:]
        return sent[0]


class GatewareBus(Bus):
    """The pins of a simulated design, with a clock of its own."""

    def __init__(self, simulation, damage):
        super().__init__()
        self.simulation, self.damage = simulation, damage
        self.now, self.cycle = Fraction(0), 0

    def until(self, then):
        self.now = then
        if (cycles := round(then) - self.cycle) > 0:
            self.simulation.tick(cycles)
            self.cycle += cycles

    def xfer2(self, values):
        self.until(self.now + 100)
        self.simulation.set("cs", 1)
        got = super().xfer2(values)
        self.until(self.now + 5)
        self.simulation.set("cs", 0)
        return got

    def byte(self, value):
        half = Fraction(CLOCK_MHZ * 1_000_000, 2 * self.max_speed_hz)
        got = 0
        value ^= self.damage()
        for n in range(8):
            self.simulation.set("copi", value >> 7 - n & 1)
            self.until(self.now + half)
            got = got << 1 | self.simulation.get("cipo")
            self.simulation.set("sck", 1)
            self.until(self.now + half)
            self.simulation.set("sck", 0)
        return got ^ self.damage()


@pytest.fixture(scope="module")
def design():
    if compiler.search() is None:
        pytest.skip(compiler.INSTALL)
    model = modelfile.load("digits")
    return cxxrtl.build(SerialNetwork(
        model, planner.plan(model, boards.load("icestick")), SpiPeripheral(),
        identity=Identity.of(model, modelfile.sha256("digits"))))


def install(monkeypatch, bus):
    monkeypatch.setitem(sys.modules, "spidev", types.SimpleNamespace(SpiDev=lambda: bus))


@pytest.fixture
def gateware(design, monkeypatch):
    """Puts the design behind spidev; the argument says which bits of a byte are damaged."""
    def make(damage=lambda: 0):
        install(monkeypatch, bus := GatewareBus(design.simulation(), damage))
        return bus
    return make


@pytest.fixture
def board(monkeypatch):
    bus = BoardBus()
    bus.board = FakeBoard()
    install(monkeypatch, bus)
    return bus


def test_images_through_the_gateware(gateware):
    """At the highest clock of the bus, every logit."""
    bus = gateware()
    with connect(FASTEST) as device:
        assert bus.opened == (0, 0)
        assert device.name == "digits"
        for image, logits in zip(IMAGES[:4], LOGITS[:4], strict=True):
            answer = device.classify(image)
            assert (answer.logits, answer.tries) == (tuple(logits), 1)
        assert vars(device.counters()) == {"taken": 5, "damaged": 0, "refused": 0, "overruns": 0}
        assert device.statistics.as_json()["stale"] == 0
    assert bus.opened is None


def test_an_answer_that_nobody_read_is_no_answer_to_another(gateware):
    bus = gateware()
    with connect("spi:/dev/spidev0.0:3.3") as device:
        device.port.write(device.frame.request(77, IMAGES[0]))
    bus.until(bus.now + 10_000)
    with connect(FASTEST) as device:
        assert device.classify(IMAGES[1]).logits == tuple(LOGITS[1])
        assert device.statistics.as_json()["timeouts"] == 0


def test_damaged_bytes_do_not_matter(gateware):
    """One in 300, in both directions: no wrong answer, and all are answered in the end."""
    numbers = random.Random(5)
    gateware(lambda: 1 << numbers.randrange(8) if numbers.random() < 1 / 300 else 0)
    with connect(FASTEST, timeout=0.02, tries=9) as device:
        answers = list(device.classify_all(IMAGES[:12]))
        assert all(isinstance(answer, Answer) for answer in answers)
        assert [answer.logits for answer in answers] == [tuple(each) for each in LOGITS[:12]]
        assert device.statistics.retried > 0


def test_the_commands(gateware, tmp_path, capsys):
    image = pytest.importorskip("PIL.Image", reason="extra host")
    path = tmp_path / "3.png"
    image.fromarray(np.rint(IMAGES[3, ..., 0] * (255 / 16)).astype(np.uint8)).save(path)
    gateware()
    assert main(["classify", str(path), "--port", FASTEST, "--json"]) == 0
    found, = json.loads(capsys.readouterr().out)["images"]
    assert found["logits"] == LOGITS[3].tolist()
    assert main(["identify", "--port", "spi:/dev/spidev1.2:7.25"]) == 0
    assert "/dev/spidev1.2, 7.25 MHz" in capsys.readouterr().out


def test_many_images(board):
    with connect("spi:/dev/spidev0.1") as device:
        assert (board.max_speed_hz, board.opened) == (1_000_000, (0, 1))
        assert device.port.baud == 1_250_000
        answers = list(device.classify_all(IMAGES[:50]))
        assert [answer.logits for answer in answers] == [tuple(each) for each in LOGITS[:50]]


def test_a_large_request_goes_in_parts(board, monkeypatch):
    monkeypatch.setattr("flightrtl.host.spi._TRANSFER", 7)
    with connect("spi:/dev/spidev0.1") as device:
        assert device.classify(IMAGES[5]).logits == tuple(LOGITS[5])


def test_nobody_at_the_other_end(board, monkeypatch):
    for level in (0, 0xFF):
        monkeypatch.setattr(board, "byte", lambda value, level=level: level)
        with pytest.raises(DeviceError, match=f"no silence, .* is {level:02x} ") as caught:
            connect("spi:/dev/spidev0.0")
        assert "--link spi" in str(caught.value.knob)
        assert board.opened is None
    monkeypatch.setattr(board, "byte", lambda value: FLAG)
    with pytest.raises(NoAnswer, match="at 2.5 MHz: silence, and no answer"):
        connect("spi:/dev/spidev0.0:2.5", tries=1, timeout=0.01)
    assert board.opened is None


def test_a_bus_that_is_gone(board, monkeypatch):
    with connect("spi:/dev/spidev0.0") as device:
        def gone(values):
            raise OSError(19, "No such device")
        monkeypatch.setattr(board, "xfer2", gone)
        with pytest.raises(DeviceError, match="/dev/spidev0.0: No such device"):
            device.classify(IMAGES[0])


@pytest.mark.parametrize(("error", "message"), [
    (PermissionError(13, "Permission denied"), "no permission to open it: join the group"),
    (FileNotFoundError(2, "No such file"), "there is no /dev/spidev0.0: is SPI turned on"),
    (OSError(22, "Invalid argument"), "cannot be used at 1 MHz: Invalid argument"),
])
def test_a_bus_that_cannot_be_opened(board, monkeypatch, error, message):
    def refuse(bus, select):
        raise error
    monkeypatch.setattr(board, "open", refuse)
    with pytest.raises(UserError, match=message):
        connect("spi:/dev/spidev0.0")


@pytest.mark.parametrize(("name", "message"), [
    ("spi:", "written spi:PATH or spi:PATH:MHZ"),
    ("spi:/dev/spidev0.0:fast", "written spi:PATH or spi:PATH:MHZ"),
    ("spi:/dev/spidev0.0:0", "must be 0.01 to 100 MHz, not 0"),
    ("spi:/dev/null", "is no SPI device of Linux"),
])
def test_wrong_names(board, name, message):
    with pytest.raises(UserError, match=message):
        connect(name)
    with pytest.raises(UserError, match="leave out --baud"):
        connect("spi:/dev/spidev0.0", baud=115_200)


def test_without_spidev(monkeypatch):
    monkeypatch.setitem(sys.modules, "spidev", None)
    with pytest.raises(UserError, match=r"pip install 'flightrtl\[spi\]'"):
        connect("spi:/dev/spidev0.0")

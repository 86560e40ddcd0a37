"""A finished bitstream, decoded and simulated, with its serial port as the only way in."""

import dataclasses
import json
import re
import shutil
from fractions import Fraction

import pytest

from flightrtl import boards, modelfile, toolchain
from flightrtl.errors import BuildError, UserError
from flightrtl.progress import Progress
from sim import bitstream, compiler
from sim.__main__ import main
from sim.images import choose
from sim.serial_line import SerialLine

PATIENCE = 50_000


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """Digits on the icestick, built and decoded."""
    missing = ("icebox_vlog is missing: apt install fpga-icestorm"
               if shutil.which("icebox_vlog") is None
               else "there is no C++ compiler: " + compiler.INSTALL
               if compiler.search() is None else "")
    if missing:
        pytest.skip(f"the bitstream level is NOT tested, since {missing}")
    return bitstream.BitstreamEngine("digits", "icestick", Progress(),
                                     output=tmp_path_factory.mktemp("build"))


@pytest.fixture(scope="module")
def design(engine):
    return engine.chip.compile(engine.board)


@pytest.fixture(scope="module")
def images():
    return choose(modelfile.load("digits"), 2)[0]


def simulate(engine, chip, design, images):
    return bitstream.simulate(design, chip, engine.board, modelfile.load("digits"), images,
                              patience=PATIENCE)


def test_digits_at_the_bitstream_level(engine, monkeypatch, capsys):
    monkeypatch.setattr(bitstream, "BitstreamEngine", lambda *args: engine)
    assert main(["digits", "--level", "bitstream", "--board", "icestick", "--images", "3",
                 "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["mismatches"] == 0
    assert result["images"] == 3
    assert result["cycles_of_its_bytes"] < result["cycles_per_image_on_the_line"] < 1.15 * result[
        "cycles_of_its_bytes"]
    assert result["cycles_per_inference"] is None, "the line sets the pace"


def test_what_is_decoded_is_the_board_s_design(engine):
    chip = engine.chip
    assert chip.clock_mhz == 84
    assert re.search(r"module chip \(.*\binput rx\b.*\boutput tx\b", chip.verilog)
    assert len(chip.led_inverted) == len(engine.board.leds)
    # The weights are in block RAM, and nothing has a name of the source any more.
    assert re.search(r"STARTING_RAM40_4K #\(.*?\.INIT_0\(256'h[0-9a-f]*[1-9a-f]", chip.verilog,
                     re.DOTALL)
    assert "network" not in chip.verilog


def test_a_wrong_bit_of_block_ram_is_seen(engine, design, images, tmp_path, monkeypatch):
    monkeypatch.setenv("FLIGHTRTL_CACHE", str(tmp_path))
    source = tmp_path / "top.bin"
    built = next(engine.output.glob("*.bin"))
    shutil.copyfile(built, source)
    unpack, pack = toolchain.find("iceunpack"), toolchain.find("icepack")
    toolchain.run(unpack, ["top.bin", "top.asc"], folder=tmp_path, log="unpack.log")
    text = (tmp_path / "top.asc").read_text()
    # The fullest block RAM, its first word that is not 0: the lowest bit that is set.
    ram = max(re.finditer(r"\.ram_data \d+ \d+\n((?:[0-9a-f]+\n)+)", text),
              key=lambda match: len(re.findall("[1-9a-f]", match[1])))
    position = max(m.start(1) for m in re.finditer(r"([1-9a-f])", ram[1].split("\n")[0]))
    place = ram.start(1) + position
    digit = int(text[place], 16)
    text = f"{text[:place]}{digit & digit - 1:x}{text[place + 1:]}"
    (tmp_path / "top.asc").write_text(text)
    toolchain.run(pack, ["top.asc", "bad.bin"], folder=tmp_path, log="pack.log")

    chip = bitstream.decode(tmp_path / "bad.bin", engine.board)
    assert chip.clock_mhz == engine.chip.clock_mhz
    trace = simulate(engine, chip, chip.compile(engine.board), images)
    good = simulate(engine, engine.chip, design, images)
    assert (trace.logits != good.logits).any()


def test_with_another_clock_the_two_ends_do_not_understand_each_other(engine, design, images):
    wrong = dataclasses.replace(engine.chip, clock_mhz=engine.chip.clock_mhz * Fraction(9, 10))
    with pytest.raises(BuildError, match="asked what it is: "):
        simulate(engine, wrong, design, images)


def test_the_bitstream_of_another_network_is_told(engine, design, images):
    other = dataclasses.replace(modelfile.load("digits").layers[0], output_scale=99)
    model = modelfile.load("digits")
    model = dataclasses.replace(model, layers=(other, *model.layers[1:]))
    with pytest.raises(BuildError, match="of another network than 'digits'"):
        bitstream.simulate(design, engine.chip, engine.board, model, images, patience=PATIENCE)


def test_a_request_during_the_start_is_lost(engine, design, images, monkeypatch):
    monkeypatch.setattr(bitstream, "STARTUP_SECONDS", 1e-6)
    with pytest.raises(BuildError, match="no byte came from pin 'tx'"):
        simulate(engine, engine.chip, design, images)


def test_leds_that_do_not_show_the_class_are_told(engine, design, images):
    inverted = dataclasses.replace(engine.chip, led_inverted=(True,) * 5)
    with pytest.raises(BuildError, match="image 0: the LEDs show"):
        simulate(engine, inverted, design, images)


def test_a_bitstream_of_another_clock_is_told(engine, monkeypatch):
    monkeypatch.setattr(bitstream, "decode", lambda *args: dataclasses.replace(
        engine.chip, clock_mhz=Fraction(80)))
    with pytest.raises(BuildError, match="makes 80 MHz, and the design is made for 84 MHz"):
        bitstream.BitstreamEngine("digits", "icestick", Progress(), output=engine.output)


def test_only_ice40_can_be_decoded():
    with pytest.raises(UserError, match=r"no open tool .*--level netlist"):
        main(["digits", "--level", "bitstream", "--board", "ecp5"])


def test_a_missing_decoder_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setenv("ICEBOX_VLOG", "/nowhere/icebox_vlog")
    with pytest.raises(UserError, match="/nowhere/icebox_vlog is needed .*fpga-icestorm"):
        main(["digits", "--level", "bitstream"])


def test_a_pll_of_another_kind_is_refused():
    text = ('SB_PLL40_CORE #(\n  .FEEDBACK_PATH("DELAY"),\n  .PLLOUT_SELECT("GENCLK"),\n'
            "  .DIVR(4'b0000),\n  .DIVF(7'b0000001),\n  .DIVQ(3'b001)\n) pll (\n);")
    board = boards.load("ice40")
    with pytest.raises(BuildError, match="simple feedback"):
        bitstream._clock_mhz(text, board)
    assert bitstream._clock_mhz(text.replace("DELAY", "SIMPLE"), board) == 12
    assert bitstream._clock_mhz("", board) == board.clock.input_mhz


class Echo:
    """Sends back what it receives, some cycles later, as the pins of a design would."""

    def __init__(self, delay, flip=lambda cycle: 0):
        self.line = [1] * delay
        self.delay, self.flip, self.level = delay, flip, 1

    def set(self, name, value):
        assert name == "rx"
        self.level = value

    def get(self, name):
        assert name == "tx"
        return self.line[-self.delay] ^ self.flip(len(self.line))

    def tick(self, cycles):
        self.line += [self.level] * cycles


@pytest.mark.parametrize("bit", [Fraction(4), Fraction(36), Fraction(125, 12), Fraction(868)])
def test_the_host_s_end_of_the_line(bit):
    data = bytes(range(0, 256, 5)) + b"\xa5"
    for byte in data:
        line = SerialLine(Echo(delay=round(10 * bit) + 3), bit)
        line.send(bytes([byte]))
        assert line.receive(1000) == byte
    line = SerialLine(Echo(delay=round(10 * bit * len(data)) + 3), bit)
    line.send(data)
    assert line.cycle == round((10 * len(data) - Fraction(1, 2)) * bit)
    assert bytes(line.receive(1000) for _ in data) == data


def test_what_is_no_byte_is_told():
    line = SerialLine(Echo(5), Fraction(10))
    with pytest.raises(BuildError, match="no byte came from pin 'tx' in 300 cycles"):
        line.receive(300)
    line = SerialLine(Echo(5, flip=lambda cycle: 1), Fraction(10))
    with pytest.raises(BuildError, match="is no byte: its start bit is 1 or its stop bit 0"):
        line.receive(300)
    with pytest.raises(ValueError, match="must be 4 or more, not 3"):
        SerialLine(Echo(5), Fraction(3))

import shutil
from pathlib import Path

import pytest
from amaranth_boards.icebreaker import ICEBreakerPlatform

from flightrtl import boards
from flightrtl.errors import UserError

GOOD = boards.paths()["icebreaker"].read_text()


@pytest.mark.parametrize("name", boards.names())
def test_every_board_agrees_with_its_platform(name):
    board = boards.load(name)
    platform = board.make_platform()
    assert board.name == name
    assert platform.device == board.device
    clock = platform.lookup(board.clock.resource).clock
    assert clock.frequency == board.clock.input_mhz * 1e6
    assert platform.request(board.uart.resource, board.uart.number, dir="-").tx
    if board.spi is not None:
        assert platform.request(board.spi.RESOURCE, 0, dir="-").cs.invert == (True,)
    for led in board.leds:
        resource = platform.lookup(led.resource, led.number)
        if led.subsignal:
            assert led.subsignal in [part.name for part in resource.ios]


def test_aliases():
    assert boards.load("ice40").name == "icebreaker"
    assert boards.load("ecp5").name == "ulx3s_85f"
    assert isinstance(boards.load("ice40").make_platform(), ICEBreakerPlatform)


def test_names_and_aliases_are_unique():
    everything = [*boards.names(), *(alias for name in boards.names()
                                     for alias in boards.load(name).aliases)]
    assert len(everything) == len(set(everything))


def test_an_unknown_board_lists_those_there_are():
    with pytest.raises(UserError, match="did you mean 'icebreaker'") as caught:
        boards.load("iceBraker")
    for name in boards.names():
        assert name in str(caught.value)


def test_a_board_file_by_its_path(tmp_path):
    path = tmp_path / "mine.toml"
    shutil.copy(boards.paths()["icestick"], path)
    board = boards.load(str(path))
    assert board.name == "mine"
    assert board.device == "iCE40HX1K"
    assert boards.load(path) == board


def test_a_missing_or_broken_file(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        boards.load(tmp_path / "none.toml")
    with pytest.raises(UserError, match="cannot be read"):
        boards.load(tmp_path)
    path = tmp_path / "bad.toml"
    path.write_text("title = ")
    with pytest.raises(UserError, match="is not TOML"):
        boards.load(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="is not TOML"):
        boards.load(path)


@pytest.mark.parametrize(("old", "new", "message"), [
    ("lut4 = 5280", "lut4 = -1", "resources.lut4 must be 0 or more, not -1"),
    ("lut4 = 5280", "lut4 = 5280.5", "resources.lut4 must be a int, not 5280.5"),
    ("lut4 = 5280", "", "resources.lut4 is missing"),
    ("lut4 = 5280", "lut4 = true", "resources.lut4 must be a int, not True"),
    ("[uart]", "[serial]", "uart is missing"),
    ('"ice40"\ndevice', '"xc7"\ndevice', "family must be one of ice40, ecp5, not 'xc7'"),
    ('pll = "pad"', 'pll = "dcm"', "clock.pll must be one of pad, core, none, not 'dcm'"),
    ('"led:0"', '"led0"', "leds.pins must be a list such as"),
    ("[leds]", "[leds]\nmany = 1", "leds.many is not a key of a board file"),
    ('"pmod:0"', '"pmod"', "spi.connector must be NAME:NUMBER"),
    ('sck = "4"', 'sclk = "4"', "spi.sclk is not a key of a board file"),
    ('sck = "4"', 'sck = "4 5"', "spi.sck must be the name of one pin, not '4 5'"),
    ('sck = "4"', "sck = 4", "spi.sck must be a str, not 4"),
    ("PULLUP = 1", "PULLUP = [1]", "spi.attributes must be strings and integers"),
    ("0x10_0000", "0x10_8000", "flash.address must be a multiple of 65536 below bytes: what is "
                               "erased at a time, not 1081344"),
    ("0x100_0000", "0x200_0000", "flash.bytes must be 65536 to 16777216: 24 bits of address, not"),
    ('"-o", "{address}", ', "", "flash.program must be a command such as"),
    ("wake_us = 3.0", "wake_ms = 3.0", "flash.wake_ms is not a key of a board file"),
    ("fill = 0.905", "fill = 1.5", "build.fill must be above 0 and at most 1, not 1.5"),
    ("baud = 1_000_000", "baud = 0", "uart.baud must be 300 to 12000000, not 0"),
    ('"0403:6010:1"', '"0403:601"', "uart.usb must be VID:PID or VID:PID:INTERFACE"),
    ("default_mhz = ", "default_mhz = inf #", "clock.default_mhz must be a frequency in MHz"),
    ("amaranth_boards.icebreaker:", "amaranth_boards.icebreaker.", "platform must be module:Class"),
])
def test_every_problem_of_a_file_is_named(tmp_path, old, new, message):
    assert old in GOOD
    path = tmp_path / "bad.toml"
    path.write_text(GOOD.replace(old, new).replace("seed = 2", "seed = 'x'"))
    with pytest.raises(UserError) as caught:
        boards.load(path)
    assert message in str(caught.value)
    assert "build.seed must be a int, not 'x'" in str(caught.value)


def test_a_platform_that_is_not_there_or_another_one(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(GOOD.replace(":ICEBreakerPlatform", ":NoSuch"))
    with pytest.raises(UserError, match="cannot import platform"):
        boards.load(path).make_platform()
    path.write_text(GOOD.replace('device = "iCE40UP5K"', 'device = "iCE40HX8K"'))
    with pytest.raises(UserError, match="device is 'iCE40HX8K', but that of"):
        boards.load(path).make_platform()
    path.write_text('extra_resources = ["nothing"]\n' + GOOD)
    with pytest.raises(UserError, match="has no 'nothing'"):
        boards.load(path).make_platform()


def test_extra_resources_are_added(tmp_path):
    path = tmp_path / "full.toml"
    path.write_text('extra_resources = ["break_off_pmod"]\n'
                    + GOOD.replace('"led:0", "led:1"', '"led:3", "led:2"'))
    board = boards.load(path)
    platform = board.make_platform()
    assert platform.lookup("led", 3)
    assert [led.number for led in board.leds] == [3, 2]


def test_the_page_about_boards_has_every_board_with_its_numbers():
    page = (Path(__file__).parent.parent / "docs" / "boards.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for name in boards.names():
        board = boards.load(name)
        row = next(row for row in rows if f"`{name}`" in row or
                   name.startswith("ulx3s") and "`ulx3s_12f`" in row)
        assert f"| {board.clock.input_mhz:g} MHz | {board.clock.default_mhz:g} MHz |" in row
        assert f"| {board.uart.baud:,} baud |" in row
        assert f"| {len(board.leds) or 'none'}" in row
        assert row.rstrip(" |").endswith("no") == (board.spi is None)

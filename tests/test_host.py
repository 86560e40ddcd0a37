"""The host's commands, with a board of Python behind a pseudo-terminal."""

import json
import os
import sys
import threading
import time
import types

import numpy as np
import pytest

from flightrtl import boards, golden, modelfile, samples
from flightrtl.errors import BuildError, UserError
from flightrtl.host import connect, ports, watch
from flightrtl.host.__main__ import main
from flightrtl.host.device import NoAnswer
from flightrtl.host.ports import PortBusy, SerialPort, Unplugged, find, listed
from flightrtl.host.terminal import bar, gallery, pixels
from sim.serve import Server, serving
from tests.fakeboard import FakeBoard

pytest.importorskip("serial", reason="extra host")
Image = pytest.importorskip("PIL.Image", reason="extra host")
pytest.importorskip("pty", reason="pseudo-terminals")

IMAGES, LABELS = samples.load("digits")
LOGITS = golden.run(modelfile.load("digits"), IMAGES)


@pytest.fixture
def port():
    with serving(FakeBoard()) as server:
        yield server.path


@pytest.fixture
def folder(tmp_path):
    """Three images that are digits of the test split."""
    for number in range(3):
        Image.fromarray(np.rint(IMAGES[number, ..., 0] * (255 / 16)).astype(np.uint8)).save(
            tmp_path / f"{number}.png")
    return tmp_path


def run(capsys, *arguments):
    status = main([str(each) for each in arguments])
    return status, capsys.readouterr().out


def test_classify(port, folder, capsys):
    status, text = run(capsys, "classify", folder, folder / "1.png", "--port", port)
    assert status == 0
    rows = [line.split() for line in text.splitlines()[2:]]
    assert [row[:2] for row in rows] == [[str(folder / f"{n}.png"), str(LOGITS[n].argmax())]
                                         for n in (0, 1, 2, 1)]
    assert "\x1b" not in text, "no terminal, no colours"


def test_classify_as_json(port, folder, capsys):
    status, text = run(capsys, "classify", folder, "--port", port, "--model", "digits", "--json")
    result = json.loads(text)
    assert status == 0
    assert result["model"] == "digits"
    assert [each["logits"] for each in result["images"]] == LOGITS[:3].tolist()
    assert [each["class"] for each in result["images"]] == LOGITS[:3].argmax(axis=1).tolist()
    assert result["line"]["failed"] == 0


def test_pictures_on_request(port, folder, capsys):
    _, text = run(capsys, "classify", folder / "0.png", "--port", port, "--show")
    assert any(character in text for character in "%@#")


def test_identify(port, capsys):
    status, text = run(capsys, "identify", "--port", port, "--counters", "--json")
    result = json.loads(text)
    assert status == 0
    assert (result["model"], result["baud"], result["loadable"]) == ("digits", 1_000_000, False)
    assert result["counters"] == {"taken": 1, "damaged": 0, "refused": 0, "overruns": 0}
    assert "counted   3 frames taken" in run(capsys, "identify", "--port", port, "--counters")[1]


def test_bench(port, capsys):
    status, text = run(capsys, "bench", "--images", "20", "--port", port, "--json")
    result = json.loads(text)
    assert status == 0
    assert (result["answered"], result["mismatches"], result["failed"]) == (20, 0, 0)
    assert result["images_per_second"] > 0
    assert "20 answered" in run(capsys, "bench", "--images", "20", "--port", port)[1]


def test_bench_sees_a_wrong_logit(capsys):
    board = FakeBoard()
    right = board.model
    board.model = modelfile.load("digits")
    board.model.layers[-1].bias[0] += 4096
    with serving(board) as server:
        assert main(["bench", "--images", "5", "--port", server.path]) == 1
    assert "error: 5 wrong answers" in capsys.readouterr().err
    assert right is not board.model


def test_watch_a_folder(port, folder, capsys):
    status, text = run(capsys, "watch", folder, "--old", "--images", "2", "--port", port)
    assert status == 0
    assert [line.split()[1] for line in text.splitlines()] == [
        str(LOGITS[n].argmax()) for n in (0, 1)]


def test_new_files_only_and_only_complete_ones(folder):
    files = watch.folder(folder, interval=0.01)

    def later():
        time.sleep(0.05)
        (folder / "text.txt").write_text("x")
        (folder / "0.png").rename(folder / "9.png")
        (folder / "1.png").write_bytes((folder / "2.png").read_bytes() + b"\0")

    thread = threading.Thread(target=later)
    thread.start()
    assert {next(files).name, next(files).name} == {"9.png", "1.png"}
    thread.join()


def test_a_file_that_is_no_image_does_not_end_a_watch(port, folder, capsys):
    (folder / "0.png").write_text("x")
    assert main(["watch", str(folder), "--old", "--images", "1", "--port", port]) == 0
    captured = capsys.readouterr()
    assert "0.png: this is not an image" in captured.err
    assert "1.png" in captured.out


class Camera:
    """OpenCV's, as far as it is used."""

    def __init__(self, number):
        self.number, self.left = number, 2

    def isOpened(self):
        return self.number == 0

    def read(self):
        self.left -= 1
        return self.left >= 0, np.repeat(IMAGES[0] * np.uint8(15), 3, axis=2)

    def release(self):
        pass


def test_watch_a_camera(port, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", types.SimpleNamespace(
        VideoCapture=Camera, COLOR_BGR2RGB=4, cvtColor=lambda picture, how: picture))
    status, text = run(capsys, "watch", "--camera", "0", "--images", "2", "--port", port, "--json")
    assert status == 0
    assert [json.loads(line)["class"] for line in text.splitlines()] == [LABELS[0]] * 2
    with pytest.raises(BuildError, match="camera 0 gives no pictures any more"):
        main(["watch", "--camera", "0", "--port", port])
    with pytest.raises(UserError, match="there is no camera 3"):
        main(["watch", "--camera", "3", "--port", port])
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match="pip install opencv"):
        main(["watch", "--camera", "0", "--port", port])


# What can go wrong: one clear message each.

def test_a_wrong_port(folder, tmp_path):
    for path, message in ((tmp_path / "none", "no serial port"),
                          (folder / "0.png", "is not a serial port"),
                          ("/dev/null", "is not a serial port")):
        with pytest.raises(UserError, match=message):
            main(["classify", str(folder), "--port", str(path)])


def test_a_port_with_nobody_behind_it(folder, capsys):
    class Deaf(FakeBoard):
        def send(self, data):
            pass

    with serving(Deaf()) as server:
        with pytest.raises(NoAnswer, match="no answer at 1,000,000 baud: nothing came back\n"
                                           "  what helps: is this the board's serial port"):
            main(["identify", "--port", server.path, "--baud", "1000000", "--tries", "2"])
        with pytest.raises(NoAnswer, match="no answer at 1,000,000 or 115,200 baud"):
            main(["identify", "--port", server.path, "--tries", "1"])


def test_a_busy_port(port):
    first = SerialPort(port, 1_000_000)
    with pytest.raises(PortBusy, match="is in use by another program\n  what helps: close it"):
        connect(port)
    first.close()
    with connect(port) as device:
        assert device.name == "digits"


def test_a_port_without_permission(tmp_path, monkeypatch):
    import serial

    def refuse(*_, **__):
        raise serial.SerialException(13, "could not open port: Permission denied")

    monkeypatch.setattr(serial, "Serial", refuse)
    with pytest.raises(UserError, match="no permission to open it: on Linux, join the group"):
        SerialPort("/dev/ttyUSB7", 1_000_000)


def test_an_unplugged_device(folder):
    server = Server(FakeBoard())
    stop = threading.Event()
    thread = threading.Thread(target=server.serve, args=(stop,))
    thread.start()
    device = connect(server.path)
    assert device.classify(IMAGES[0]).winner == LOGITS[0].argmax()
    stop.set()
    thread.join()
    server.close()
    with pytest.raises(Unplugged, match="has gone: was the board unplugged"):
        device.classify(IMAGES[0])
    device.close()
    # What is open no longer is opened no more.
    with pytest.raises(UserError, match="no serial port"):
        connect(server.path)


def test_a_wrong_model(port, folder):
    with pytest.raises(UserError, match=r"the board has model 'digits'.*and not 'mnist'"):
        main(["classify", str(folder), "--port", port, "--model", "mnist"])


def test_a_file_that_is_no_image(folder):
    (folder / "0.png").write_text("x")
    with pytest.raises(UserError, match="0.png: this is not an image"):
        main(["classify", str(folder), "--port", "not looked at"])


def test_the_wrong_bit_rate_and_the_right_one():
    """Another rate than the board's gives nothing; without one, all that boards have are tried."""
    with serving(FakeBoard(baud=115_200)) as server:
        with pytest.raises(NoAnswer, match="no answer at 1,000,000 baud"):
            connect(server.path, board="ice40", tries=1)
        with connect(server.path) as device:
            assert device.port.baud == 115_200


@pytest.mark.parametrize(("arguments", "message"), [
    (["watch"], "name a folder to watch, or a camera"),
    (["watch", "nowhere"], "nowhere: there is no such folder"),
    (["classify", "nothing.png"], "nothing.png: there is no such file"),
    (["bench", "--port", "x", "--baud", "5"], "the bit rate must be 300 to 12,000,000, not 5"),
    (["identify", "--board", "iceBraker"], "did you mean 'icebreaker'"),
    (["bench", "--model", "nope"], "model 'nope' cannot be used"),
])
def test_wrong_requests(arguments, message):
    with pytest.raises(UserError, match=message):
        main(arguments)


def test_no_images(port):
    with pytest.raises(UserError, match="the number of images must be 1 or more"):
        main(["bench", "--images", "0", "--port", port])


# Ports by name.

def usb(device, vid=None, pid=None, location=None, product=None):
    return types.SimpleNamespace(device=device, vid=vid, pid=pid, location=location,
                                 manufacturer=None, product=product, description="n/a")


COMPUTER = [usb("/dev/ttyS0"), usb("/dev/ttyUSB0", 0x0403, 0x6010, "1-2:1.0", "Dual RS232-HS"),
            usb("/dev/ttyUSB1", 0x0403, 0x6010, "1-2:1.1", "Dual RS232-HS"),
            usb("/dev/ttyUSB2", 0x0403, 0x6015, "1-3:1.0", "ULX3S FPGA 85K v3.0.8")]


def test_ports_have_the_boards_that_they_may_be():
    found = listed(COMPUTER)
    assert [port.boards for port in found[:2]] == [(), ()]
    assert "icebreaker" in found[2].boards
    assert "versa_ecp5" in found[2].boards
    assert found[3].boards == ("ulx3s_12f", "ulx3s_25f", "ulx3s_45f", "ulx3s_85f")
    # Elsewhere than on Linux the interface is not known.
    assert "icebreaker" in listed([usb("COM3", 0x0403, 0x6010, "1-2")])[0].boards


def test_a_port_is_found_by_board_or_name():
    found = listed(COMPUTER)
    assert find(None, boards.load("ice40"), found) == "/dev/ttyUSB1"
    assert find(None, boards.load("ecp5"), found) == "/dev/ttyUSB2"
    assert find("ulx3s", None, found) == "/dev/ttyUSB2"
    assert find("/dev/ttyUSB0", boards.load("ice40"), found) == "/dev/ttyUSB0"
    with pytest.raises(UserError, match="2 serial ports may be meant; name one with --port"):
        find(None, None, found)
    with pytest.raises(UserError, match=r"no serial port of a board 'icesugar'.*\n.*\n +/dev/ttyS"):
        find(None, boards.load("icesugar"), found)
    with pytest.raises(UserError, match=r"serial ports of this computer:\n    none"):
        find(None, None, [])


def test_list_of_ports(capsys, monkeypatch):
    monkeypatch.setattr(ports, "listed", lambda: listed(COMPUTER))
    main_ports = sys.modules["flightrtl.host.__main__"].ports
    monkeypatch.setattr(main_ports, "listed", lambda found=listed(COMPUTER): found)
    status, text = run(capsys, "ports")
    assert status == 0
    assert "ULX3S FPGA 85K v3.0.8  0403:6015:0" in text
    assert json.loads(run(capsys, "ports", "--json")[1])[2]["usb"] == "0403:6010:1"


def test_every_board_with_a_chip_has_it_in_its_file():
    without = [name for name in boards.names() if not boards.load(name).uart.usb]
    assert without == ["colorlight_5a75b_r7_0"]


# Pictures.

def test_pictures():
    model = modelfile.load("digits")
    picture = pixels(IMAGES[0].astype(np.int64), model)
    assert picture.shape == (8, 8, 3)
    assert picture.max() == int(IMAGES[0].max()) * 255 // 16
    plain = gallery([picture] * 3, ["zero", "one", "a caption that is too long"], colour=False,
                    width=30)
    assert len(plain.splitlines()) == 5 + 1 + 5
    assert plain.splitlines()[4].split() == ["zero", "one"]
    assert plain.splitlines()[-1] == "a caption th"
    coloured = gallery([picture], ["zero"], colour=True, width=30)
    assert coloured.count("▀") == 32
    assert "\x1b[38;2;0;0;0;48;2;0;0;0m" in coloured
    assert gallery([], [], colour=True) == ""


def test_large_and_coloured_pictures():
    model = modelfile.load("cifar10")
    picture = pixels(samples.load("cifar10")[0][0].astype(np.int64), model)
    assert np.array_equal(picture, samples.load("cifar10")[0][0])
    large = pixels(np.zeros((100, 60, 3), np.int64), model)
    assert max(large.shape) <= 32


def test_leds():
    assert bar(5, 4) == "●○●○"
    assert bar(253, 3, colour=True).count("●") == 2


def test_the_host_needs_no_amaranth():
    program = ("import sys; sys.modules['amaranth'] = None\n"
               "import flightrtl.host.__main__")
    import subprocess
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60,
                   env=os.environ | {"PYTHONPATH": os.getcwd()})

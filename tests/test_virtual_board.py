# amaranth: UnusedElaboratable=no
"""The gateware behind a pseudo-terminal, and on a line where everything goes wrong."""

import functools
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks import link
from flightrtl import boards, golden, modelfile, planner, samples
from flightrtl.errors import UserError
from flightrtl.host import connect
from flightrtl.host.device import Answer, Device, NoAnswer
from flightrtl.protocol import Frame, Reply, Type
from sim import compiler
from sim.__main__ import main
from sim.board import VirtualBoard, compile_board
from sim.faulty import FAULTS, FaultyLine
from sim.recording import svg
from sim.serve import Server, serving
from tests.fakeboard import FakeBoard

ROOT = Path(__file__).parent.parent
BAUD = link.BAUD
MODEL = modelfile.load("digits")
SHA256 = modelfile.sha256("digits")
IMAGES = samples.load("digits")[0]
LOGITS = golden.run(MODEL, IMAGES)

needs_compiler = pytest.mark.skipif(compiler.search() is None, reason=compiler.INSTALL)


@pytest.fixture(scope="module")
def plan():
    return planner.plan(MODEL, boards.load("icestick"))


@pytest.fixture(scope="module")
def design(plan):
    return compile_board(MODEL, plan, SHA256, baud=BAUD)


@pytest.fixture
def board(design, plan):
    return VirtualBoard(design, MODEL, plan, baud=BAUD)


@needs_compiler
def test_it_answers_as_the_golden_model(board):
    device = Device(FaultyLine(board))
    assert device.name == "digits"
    for image, logits in zip(IMAGES[:8], LOGITS[:8], strict=True):
        answer = device.classify(image)
        assert answer.logits == tuple(logits)
        assert answer.tries == 1
        assert board.winner == answer.winner
        assert board.leds == answer.winner & 31
    assert vars(device.counters()) == {"taken": 9, "damaged": 0, "refused": 0, "overruns": 0}


@needs_compiler
def test_time_is_that_of_the_line(board):
    frame = Frame.of(MODEL)
    device = Device(FaultyLine(board))
    seconds = device.classify(IMAGES[0]).seconds
    line = 10 * (frame.request_size + frame.answer_size) / BAUD
    assert line < seconds < 3 * line
    # A board with nothing to do takes no time to simulate, and its time passes all the same.
    board.run(1_000_000)
    assert board.asleep
    before = board.seconds
    assert board.run(84_000_000_000) == b""
    assert board.seconds == pytest.approx(before + 1000)
    assert device.classify(IMAGES[1]).logits == tuple(LOGITS[1])


@needs_compiler
def test_stress(board):
    """The benchmark, shorter: a fifth of all frames damaged, in both directions."""
    found = link.stress(board, SHA256, rate=0.2, requests=200, seed=1, progress=Silent())
    assert link.problems(found) == []
    assert found["answered"] >= 195
    assert found["sent_again"] > 20
    assert set(found["faults"]) == set(FAULTS)
    assert all(found["faults"].values())
    assert found["device_counters"]["damaged"] > 10


@needs_compiler
def test_a_run_can_be_repeated(design, plan, monkeypatch):
    """Time is simulated, so a seed gives the same run."""
    first, second = (link.stress(VirtualBoard(design, MODEL, plan, baud=BAUD), SHA256, rate=0.3,
                                 requests=25, seed=4, progress=Silent()) for _ in range(2))
    assert first == second
    # The host's first number is not that of the process.
    monkeypatch.setattr(os, "getpid", lambda: 77)
    third = link.stress(VirtualBoard(design, MODEL, plan, baud=BAUD), SHA256, rate=0.3,
                        requests=25, seed=4, progress=Silent())
    assert third == first


class Silent:
    """A progress that nobody sees."""

    def step(self, text):
        pass

    update = done = step


def test_the_benchmark_sees_what_is_wrong():
    """A board with a wrong logit, and one that falls silent."""
    body = Frame.of(MODEL).answer_body([9] + [0] * 9, 0)
    wrong = FakeBoard(replies=lambda request, reply: [
        Reply(request.type, request.sequence, body=body).encode()
        if request.type == Type.CLASSIFY else reply])
    found = link.stress(wrong, SHA256, rate=0.0, requests=5, seed=0, progress=Silent())
    assert link.problems(found) == ["5 wrong", "the next clean image was not answered at once"]

    left = iter(range(3))
    deaf = FakeBoard(replies=lambda request, reply: (
        [reply] if request.type == Type.STATUS or next(left, None) is not None else []))
    found = link.stress(deaf, SHA256, rate=0.0, requests=5, seed=0, progress=Silent())
    assert found["failed"] == 3
    assert link.problems(found) == [
        "15 unanswered_clean", "the next clean image was not answered at once"]


@pytest.mark.parametrize(("arguments", "message"), [
    (["--requests", "0"], "--requests must be 1 or more"),
    (["--rate", "2"], "--rate 0 to 1"), (["--rate", "0.5", "--save"], "leave out --rate"),
])
def test_wrong_requests_to_the_benchmark(arguments, message):
    with pytest.raises(UserError, match=message):
        link.main(arguments)


def test_committed_figures():
    """10,000 requests at each rate: none answered wrongly, none hangs; the page quotes them."""
    document = json.loads(link.RESULTS.read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "host.md").read_text(encoding="utf-8")
    assert [each["rate"] for each in document["results"]] == list(link.RATES)
    for each in document["results"]:
        assert each["requests"] == 10_000
        assert link.problems(each) == []
        assert each["answered"] + each["failed"] == 10_000
        assert sum(each["faults"].values()) > 1.5 * each["rate"] * 10_000
        assert (f"| {each['rate']:.0%} | {each['requests']:,} | {each['answered']:,} | "
                f"{each['wrong']} | {each['failed']} | {each['hangs']} | "
                f"{each['sent_again']:,} | {each['timeouts']:,} | at once |").replace(
                    "%", " %") in page


@needs_compiler
def test_the_host_talks_to_it_over_a_pseudo_terminal(board):
    with serving(board) as server, connect(server.path, baud=BAUD, model="digits") as device:
        answers = list(device.classify_all(IMAGES[:5]))
    assert [answer.logits for answer in answers if isinstance(answer, Answer)] == [
        tuple(each) for each in LOGITS[:5]]


@needs_compiler
def test_at_another_bit_rate_nobody_is_understood(board):
    with serving(board) as server:
        with pytest.raises(NoAnswer, match="no answer at 4,000,000 baud"):
            connect(server.path, baud=4_000_000, tries=1)
        with connect(server.path, baud=BAUD) as device:
            assert device.classify(IMAGES[0]).logits == tuple(LOGITS[0])


def test_a_rate_that_is_too_fast_for_the_clock(plan, design):
    with pytest.raises(UserError, match="baud are too fast for a clock of 84 MHz"):
        VirtualBoard(design, MODEL, plan, baud=BAUD).host_rate(30_000_000)


@needs_compiler
def test_serve_until_ctrl_c(tmp_path, design):
    """The command itself, with a link to its port."""
    port = tmp_path / "board"
    server = subprocess.Popen(
        [sys.executable, "-m", "sim", "serve", "digits", "--board", "icestick", "--baud",
         str(BAUD), "--link", str(port), "--json"], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # Tests that run in the background ignore Ctrl-C, and children inherit that.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL))
    try:
        assert json.loads(server.stdout.readline()) == {"port": str(port), "baud": BAUD}
        result = subprocess.run(
            [sys.executable, "-m", "flightrtl.host", "bench", "--images", "10", "--json",
             "--port", str(port), "--baud", str(BAUD)], cwd=ROOT, capture_output=True, text=True,
            timeout=300)
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)["mismatches"] == 0
    finally:
        server.send_signal(signal.SIGINT)
        _, said = server.communicate(timeout=180)
    assert server.returncode == 0
    assert "Traceback" not in said
    assert not port.is_symlink()


def test_a_link_that_is_something_else(tmp_path):
    path = tmp_path / "board"
    path.write_text("mine")
    with pytest.raises(UserError, match="is there already, and no symbolic link"):
        Server(FakeBoard(), link=path)
    assert path.read_text() == "mine"
    path.unlink()
    path.symlink_to("/nowhere")
    server = Server(FakeBoard(), link=path)
    assert path.readlink() == Path(server.path)
    server.close()
    assert not path.is_symlink()


def test_a_host_that_does_not_read_holds_up_nobody():
    """As an adapter does, the oldest bytes are lost."""
    class Talker(FakeBoard):
        asleep = False

        def run(self, cycles, *, stop=None):
            if self.seconds > 100:
                stop_it.set()
            return super().run(cycles) or bytes(10_000)

    stop_it, talker = threading.Event(), Talker()
    talker.clock_hz = 1000
    server = Server(talker)
    thread = threading.Thread(target=server.serve, args=(stop_it,))
    thread.start()
    thread.join(timeout=30)
    assert not thread.is_alive()
    server.close()


@needs_compiler
def test_demo(tmp_path, capsys, design):
    picture = tmp_path / "demo.svg"
    assert main(["demo", "digits", "--board", "icestick", "--baud", str(BAUD), "--images", "3",
                 "--svg", str(picture)]) == 0
    assert capsys.readouterr().out == ""
    root = ElementTree.parse(picture).getroot()
    words = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert words[:5] == ["$", "python", "-m", "sim", "serve"]
    assert "classify" in words
    assert len(list(root.iter("{http://www.w3.org/2000/svg}rect"))) > 50
    classes = [words[words.index(f"{n}.png", words.index("tries")) + 1] for n in (1, 2, 3)]
    assert classes == ["0", "7", "4"]
    assert main(["demo", "digits", "--board", "icestick", "--baud", str(BAUD), "--images",
                 "1"]) == 0
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "message"), [
    (["demo", "--images", "0"], "--images must be 1 to 50"),
    (["serve", "nope"], "model 'nope' cannot be used"),
    (["serve", "digits", "--board", "nope"], "no board is called 'nope'"),
    (["serve", "digits", "--baud", "7"], "--baud must be 300 to 100,000,000"),
])
def test_wrong_requests(arguments, message):
    with pytest.raises(UserError, match=message):
        main(arguments)


def test_a_recording_has_every_colour_in_its_place():
    text = "$ go <on>\n\x1b[38;2;255;0;0;48;2;0;255;0m▀▀\x1b[38;2;0;0;255m▀\x1b[0m x"
    root = ElementTree.fromstring(svg(text))
    rects = [(float(each.get("x")), float(each.get("y")), float(each.get("width")),
              each.get("fill")) for each in root.iter("{http://www.w3.org/2000/svg}rect")
             if each.get("x")]
    assert rects == [(14.0, 31.0, 16.8, "#ff0000"), (30.8, 31.0, 8.4, "#0000ff"),
                     (14.0, 39.5, 25.2, "#00ff00")]
    words = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert words == ["$", "go", "<on>", "x"]


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_do_what_they_say(fault):
    line = FaultyLine(FakeBoard(), rate=1.0, seed=2)
    line._rng = Chosen(2, FAULTS.index(fault))
    frame = bytes(range(1, 60))
    for _ in range(40):
        line._pass(frame, line._out)
    found = [data for _, data in line._out]
    times = [when for when, _ in line._out]
    assert line.faults == {fault: 40}
    assert times == sorted(times)
    if fault == "drop":
        assert not found
    elif fault == "duplicate":
        assert found == [2 * frame] * 40
    elif fault == "delay":
        assert found == [frame] * 40
        assert 0.3 < times[-1] <= 0.6
    else:
        assert sum(data == frame for data in found) <= 1
        assert all(len(data) < len(frame) for data in found) is (fault == "cut")
        assert len(set(found)) > 30


class Chosen:
    """A generator whose first integer after each probability is the same."""

    def __init__(self, seed, first):
        self._rng = np.random.default_rng(seed)
        self._first, self._fresh = first, False

    def random(self):
        self._fresh = True
        return self._rng.random() * 0.999

    def integers(self, *arguments, **options):
        if self._fresh:
            self._fresh = False
            return self._first
        return self._rng.integers(*arguments, **options)

"""Requests and answers, with a line on which everything goes wrong."""

import numpy as np
import pytest

from flightrtl import golden, modelfile, samples
from flightrtl.errors import UserError
from flightrtl.host.device import Answer, Device, DeviceError, NoAnswer
from flightrtl.protocol import Reply, Status, Type
from sim.faulty import FAULTS, FaultyLine
from tests.fakeboard import FakeBoard

MODEL = modelfile.load("digits")
IMAGES = samples.load("digits")[0]
LOGITS = golden.run(MODEL, IMAGES)


def open_device(board=None, *, seed=0, **options):
    line = FaultyLine(board or FakeBoard(), seed=seed)
    return Device(line, **options), line


def status_reply(request, status):
    return Reply(request.type, request.sequence, status).encode()


def test_an_image_gets_the_golden_logits():
    device, _ = open_device()
    answer = device.classify(IMAGES[3])
    assert answer.logits == tuple(LOGITS[3])
    assert answer.winner == LOGITS[3].argmax()
    assert answer.tries == 1
    assert answer.seconds > 0


def test_it_finds_out_which_model_is_there():
    device, _ = open_device(FakeBoard("mnist"))
    assert device.name == "mnist"
    assert device.model.input.shape == (28, 28, 1)
    device, _ = open_device(model="digits")
    assert device.identity.image_bytes == 64


def test_another_model_is_refused_by_name():
    with pytest.raises(UserError, match=r"the board has model 'mnist' \(\w{16}\), and not 'digits'"
                                        r".*ask with --model mnist"):
        open_device(FakeBoard("mnist"), model="digits")
    with pytest.raises(UserError, match="has not the layers of model 'digits'"):
        open_device(FakeBoard("mnist"), model=MODEL)


def test_a_model_that_nobody_knows_needs_its_file(tmp_path):
    board = FakeBoard()
    board.identity = board.identity.of(MODEL, "ab" * 32)
    with pytest.raises(UserError, match="none of those that come with flightrtl.*--model"):
        open_device(board)
    with pytest.raises(UserError, match="the board has another model"):
        open_device(board, model="digits")
    device, _ = open_device(board, model=MODEL)
    assert device.classify(IMAGES[0]).logits == tuple(LOGITS[0])
    device, _ = open_device(board, any_model=True)
    assert device.model is None


def test_silence_is_told_and_ends():
    device, line = open_device()
    line.rate = 1.0
    line._rng = FixedFault("drop")
    before = line.now()
    with pytest.raises(NoAnswer, match="no answer to request 2 .CLASSIFY., which was sent 6 times"):
        device.classify(IMAGES[0])
    assert line.now() - before < 20
    assert device.statistics.as_json() == {
        "requests": 2, "answered": 1, "failed": 1, "sent": 7, "timeouts": 6, "damaged": 0,
        "stale": 0, "retried": 5}
    with pytest.raises(NoAnswer, match="no answer at 1,000,000 baud: nothing came back"):
        Device(line)


class FixedFault:
    """In place of a generator: the same fault every time."""

    def __init__(self, fault):
        self.fault = FAULTS.index(fault)

    def random(self):
        return 0.999

    def integers(self, *_):
        return self.fault


def test_a_reply_that_comes_late_is_not_the_next_one_s():
    """Late answers are taken as long as they are wanted, and else dropped."""
    device, line = open_device()
    line.rate = 1.0
    line._rng = FixedFault("delay")     # by 0.6 s each way; the host waits 0.25, 0.5, 1, ...
    answer = device.classify(IMAGES[0])
    assert answer.logits == tuple(LOGITS[0])
    assert answer.tries == 3
    line.rate = 0.0
    assert [device.classify(image).logits for image in IMAGES[1:5]] == [
        tuple(each) for each in LOGITS[1:5]]
    assert device.statistics.stale == 2     # the answers to the second and the third try


def test_twice_is_once():
    device, line = open_device()
    line.rate = 1.0
    line._rng = FixedFault("duplicate")
    answers = list(device.classify_all(IMAGES[:5]))
    assert [answer.logits for answer in answers] == [tuple(each) for each in LOGITS[:5]]
    assert all(answer.tries == 1 for answer in answers)


def test_what_was_on_the_line_before_does_not_count():
    """The answer to a host that is gone, with the same numbers, comes before ours."""
    stale = []

    def replies(request, reply):
        if request.type == Type.CLASSIFY:
            body = board.frame.answer_body([0] * 9 + [5], 9)
            other = request.sequence - 1 & 0xFF
            stale.append(other)
            return [Reply(Type.CLASSIFY, other, body=body).encode(),
                    Reply(Type.STATUS, request.sequence, body=body).encode(),
                    Reply(Type.CLASSIFY, request.sequence, body=body).encode()[:-4], reply]
        return [reply]

    board = FakeBoard(replies=replies)
    device, _ = open_device(board)
    assert device.classify(IMAGES[7]).logits == tuple(LOGITS[7])
    assert len(stale) == 1


def test_a_busy_device_is_asked_again():
    busy = iter([True, True, False])

    def replies(request, reply):
        if request.type == Type.CLASSIFY and next(busy):
            return [status_reply(request, Status.BUSY)]
        return [reply]

    device, _ = open_device(FakeBoard(replies=replies))
    answer = device.classify(IMAGES[0])
    assert answer.logits == tuple(LOGITS[0])
    assert answer.tries == 3
    assert device.statistics.timeouts == 0


def test_busy_before_the_answer():
    """A request that came twice: the second one is refused before the first one is answered."""
    device, _ = open_device(FakeBoard(replies=lambda request, reply: [
        *([status_reply(request, Status.BUSY)] if request.type == Type.CLASSIFY else []), reply]))
    answer = device.classify(IMAGES[0])
    assert answer.logits == tuple(LOGITS[0])
    assert answer.tries == 1


def test_a_refused_request_is_no_time_out():
    device, _ = open_device(FakeBoard(replies=lambda request, reply: [
        status_reply(request, Status.BAD_LENGTH) if request.type == Type.CLASSIFY else reply]))
    with pytest.raises(DeviceError, match="BAD_LENGTH"):
        device.classify(IMAGES[0])


def test_a_class_that_is_not_that_of_the_logits_is_refused():
    def replies(request, reply):
        if request.type != Type.CLASSIFY:
            return [reply]
        return [Reply(request.type, request.sequence,
                      body=board.frame.answer_body([1, 2, 3] + [0] * 7, 1)).encode()]

    board = FakeBoard(replies=replies)
    device, _ = open_device(board)
    with pytest.raises(DeviceError, match="class 1, and its logits say 2"):
        device.classify(IMAGES[0])


def test_a_slow_device_is_waited_for():
    class Slow(FakeBoard):
        """A simulated board: a hundred times as slow as its bit rate."""

        def run(self, cycles, *, stop=None):
            if not self._out:
                return super().run(cycles, stop=stop)
            data = super().run(cycles, stop=stop)
            self.seconds += 1000 * len(data) / self.baud
            return data

    device, _ = open_device(Slow("mnist", baud=115_200))
    image = samples.load("mnist")[0][0]
    assert device.classify(image).tries == 1
    assert device.statistics.retried == 0


def test_counters_and_reset():
    device, _ = open_device()
    assert device.counters().taken == 1
    device.reset()
    assert device.counters().taken == 1


@pytest.mark.parametrize(("options", "message"), [
    ({"tries": 0}, "tries must be 1 or more"), ({"timeout": 0.0}, "the timeout must be above 0")])
def test_bad_settings(options, message):
    with pytest.raises(UserError, match=message):
        open_device(**options)


@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_every_request_is_answered_rightly_or_reported_failed(rate):
    device, line = open_device(seed=5)
    line.rate = rate
    chosen = np.random.default_rng(5).integers(len(IMAGES), size=400)
    answers = list(device.classify_all(IMAGES[chosen]))
    assert len(answers) == 400
    for number, answer in zip(chosen, answers, strict=True):
        assert isinstance(answer, NoAnswer) or answer.logits == tuple(LOGITS[number])
    good = sum(isinstance(answer, Answer) for answer in answers)
    assert good >= 400 * (1 - 10 * rate ** 3)
    assert set(line.faults) == set(FAULTS)
    assert line.unanswered == 0
    assert device.statistics.retried > 0
    line.rate = 0.0
    assert device.classify(IMAGES[0]).tries == 1

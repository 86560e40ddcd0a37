# amaranth: UnusedElaboratable=no
# (The network is made for its numbers, not to become hardware.)
"""The cycle model: what every handshake of a network does, cycle by cycle, without the data.

Gateware moves as its valid and ready bits say, and those depend on no activation. This module
keeps just these bits and the counters behind them, in plain Python, so that interval and latency
of a plan are known before synthesis, to the cycle. Each class here mirrors one component of
:mod:`flightrtl.gateware` and must change with it; the tests hold them together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..gateware.engine import LayerEngine
from ..gateware.folding import Folding
from ..gateware.hardwired import Hardwired, HardwiredLayer
from ..gateware.network import Network
from ..gateware.pool import MaxPooling, SumPooling
from ..model import Model
from .hardwired import HardwiredCycles

__all__ = ["Timing", "measure"]

_MOST_IMAGES = 12
"""Images after which the interval is taken as it is, should it still vary."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """When a network takes and gives, fed without a gap and never held up at its end.

    Parameters
    ----------
    interval : int
        Cycles from one image's last logit to the next one's, once the pipeline is full.
    latency : int
        Cycles from the transfer of the first image's first value to that of its last logit.
    busy : mapping of str to int
        For each weighted layer, cycles of one interval in which its array takes a word, or in
        which its window moves if it is hard-wired.
    starved : mapping of str to int
        Cycles in which its array could take one but its window has none; its window could move but
        has no pixel.
    """

    interval: int
    latency: int
    busy: Mapping[str, int]
    starved: Mapping[str, int]


class _Engine:
    """The handshakes of a :class:`LayerEngine`."""

    def __init__(self, engine: LayerEngine) -> None:
        window, array = engine.window, engine.array
        self.rows, self.steps = window.ring.rows, window.steps
        self.values = window.transfers  # of an image row
        self.words = window.words
        self.windows = window.passes * window.output[1] // window.pixels
        self.lanes = array.lanes
        self.top = 1 << (array.latency - 2)
        self.mask = (self.top << 1) - 1
        self.program = [(*step, waits) for step, waits in zip(
            engine.scheduler.program, engine.scheduler.waits, strict=True)]
        # Writer and reader.
        self.filled = self.used = self.word = self.window = self.row = 0
        self.slack = -self.steps[0].rows
        self.register = window.register
        self.staged = self.staged_last = self.held = self.held_last = False
        self.offered = self.offered_last = False
        # Array, scheduler, requantizer, buffer.
        self.valids = self.lasts = self.remaining = self.step = self.pipeline = 0
        self.summed = self.out = self.full = False
        self.busy = self.starved = 0

    @property
    def ready(self) -> bool:
        return self.used != self.rows

    def tick(self, valid: bool, ready: bool) -> None:
        """One clock edge; ``valid`` of the input, ``ready`` of the output before it."""
        # What is combinational, from the output back.
        result = self.pipeline & 4 != 0
        requantizes = not (result and self.full)
        takes, ends, waits = self.program[self.step]
        room = not ends or not self.summed or requantizes
        holds = self.remaining != 0
        steps = (holds or not waits) and room
        taken = holds and takes and room
        ending = self.valids & self.lasts & self.top != 0
        advance = not (ending and holds)
        moves = advance or not self.offered
        passes_on = moves or not self.held if self.register else moves
        fetch = passes_on or not self.staged
        available = self.slack >= 0
        self.busy += self.offered and advance
        self.starved += advance and not self.offered

        # Buffer and requantizer.
        if ready or not self.out:
            self.out, self.full = result or self.full, False
        else:
            self.full = self.full or result
        if requantizes:
            self.pipeline = (self.pipeline << 1 & 7) | self.summed
            self.summed = False
        # Scheduler and array.
        if steps:
            self.summed = self.summed or ends
            self.step += 1
            if self.step == len(self.program):
                self.step = 0
        if ending and not holds:
            self.remaining = self.lanes
        elif taken:
            self.remaining -= 1
        if advance:
            self.valids = (self.valids << 1 & self.mask) | self.offered
            self.lasts = (self.lasts << 1 & self.mask) | self.offered_last
        # Window.
        written = False
        if valid and self.used != self.rows:
            self.filled += 1
            written = self.filled == self.values
            if written:
                self.filled = 0
        if moves and self.register:
            self.offered, self.offered_last = self.held, self.held_last
        elif moves:
            self.offered, self.offered_last = self.staged, self.staged_last
        if self.register and passes_on:
            self.held, self.held_last = self.staged, self.staged_last
        if fetch:
            self.staged = available
            if available:
                self.word += 1
                self.staged_last = self.word == self.words
                if self.staged_last:
                    self._next_pass()
        if written:
            self.used += 1
            self.slack += 1

    def _next_pass(self) -> None:
        self.word = 0
        self.window += 1
        if self.window == self.windows:
            self.window = 0
            step = self.steps[self.row]
            self.row = (self.row + 1) % len(self.steps)
            self.used -= step.release
            self.slack -= step.release + self.steps[self.row].rows - step.rows


class _Fold:
    """The handshakes of one stage of pooling."""

    def __init__(self, shape: tuple[int, int, int], kernel: tuple[int, int],
                 stride: tuple[int, int]) -> None:
        height, width, channels = shape
        across = _axis(width, kernel[1], stride[1])
        down = _axis(height, kernel[0], stride[0])
        self.values = [(used, ends and below) for _, below in down for used, ends in across
                       for _ in range(channels)]
        self.index = 0
        self.full = self.ends = self.out = False

    @property
    def done(self) -> bool:
        return not self.full or not self.ends or not self.out

    def accepts(self, ready: bool) -> bool:
        """``ready`` of the input, for that of the output."""
        return ready or self.done

    def tick(self, valid: bool, ready: bool) -> None:
        accepts = self.accepts(ready)
        if ready or not self.out:
            self.out = self.full and self.ends
        if accepts:
            used, ends = self.values[self.index]
            self.full, self.ends = valid and used, ends
            if valid:
                self.index = (self.index + 1) % len(self.values)


def _axis(size: int, kernel: int, stride: int) -> list[tuple[bool, bool]]:
    """For each position: whether any window has it, whether a window ends there."""
    outputs = (size - kernel) // stride + 1
    return [(n % stride < kernel and n < outputs * stride,
             n % stride == (kernel - 1) % stride and n >= kernel - 1) for n in range(size)]


class _Pool:
    """The handshakes of a pooling component: one stage, or two where windows overlap in a row."""

    def __init__(self, pool: MaxPooling | SumPooling) -> None:
        (height, width, channels), kernel, stride = pool.shape, pool.kernel, pool.stride
        if pool.pixels > 1:     # what lies in one transfer takes no time
            width //= pool.pixels
            kernel = kernel[0], kernel[1] // min(pool.pixels, kernel[1])
            stride = stride[0], kernel[1]
        self.folds = []
        if kernel[1] > stride[1]:
            self.folds.append(_Fold((width, 1, channels), (kernel[1], 1), (stride[1], 1)))
            width, kernel, stride = pool.output_shape[1], (kernel[0], 1), (stride[0], 1)
        self.folds.append(_Fold((height, width, channels), kernel, stride))

    @property
    def out(self) -> bool:
        return self.folds[-1].out

    def accepts(self, ready: bool) -> bool:
        for fold in reversed(self.folds):
            ready = fold.accepts(ready)
        return ready

    def tick(self, valid: bool, ready: bool) -> None:
        readies = [ready]
        for fold in reversed(self.folds[1:]):
            readies.append(fold.accepts(readies[-1]))
        offers = [valid, *(fold.out for fold in self.folds[:-1])]
        for fold, offered, accepted in zip(self.folds, offers, reversed(readies), strict=True):
            fold.tick(offered, accepted)


def measure(model: Model, foldings: Mapping[str, Folding | Hardwired], *,
            memory_register: bool = False) -> Timing:
    """Interval and latency of a model's :class:`~flightrtl.gateware.Network`.

    Takes some microseconds per layer and cycle.

    Parameters
    ----------
    model, foldings, memory_register
        As for the network.
    """
    network = Network(model, foldings, memory_register=memory_register)
    stages: list[_Engine | HardwiredCycles | _Pool] = []
    names = []
    for name, component in network.stages.items():
        if isinstance(component, LayerEngine):
            stages.append(_Engine(component))
            names.append((name, len(stages) - 1))
        elif isinstance(component, HardwiredLayer):
            stages.append(HardwiredCycles(component))
            names.append((name, len(stages) - 1))
        else:
            stages.append(_Pool(component))
    logits = model.output.size
    backward = list(reversed(range(len(stages))))
    ready = [True] * len(stages)
    winner = False  # the register of the argmax, which always moves on
    cycle = count = 0
    finished: list[int] = []
    marks: list[list[tuple[int, int]]] = []
    while True:
        if winner:
            count += 1
            if count % logits == 0:
                finished.append(cycle)
                marks.append([(stages[n].busy, stages[n].starved)  # type: ignore[union-attr]
                              for _, n in names])
                spans = [b - a for a, b in zip(finished, finished[1:], strict=False)]
                if len(spans) >= 3 and spans[-1] == spans[-2] or len(spans) >= _MOST_IMAGES:
                    break
        following = True
        for n in backward:
            stage = stages[n]
            ready[n] = following
            following = stage.ready if isinstance(stage, _Engine) else stage.accepts(following)
        winner = stages[-1].out
        valid = True
        for stage, accepted in zip(stages, ready, strict=True):
            offered = stage.out
            stage.tick(valid, accepted)
            valid = offered
        cycle += 1
    return Timing(
        interval=spans[-1], latency=finished[0],
        busy={name: marks[-1][i][0] - marks[-2][i][0] for i, (name, _) in enumerate(names)},
        starved={name: marks[-1][i][1] - marks[-2][i][1] for i, (name, _) in enumerate(names)})

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
from typing import Any

from ..gateware.concat import ChannelConcat
from ..gateware.dataflow import Depths
from ..gateware.engine import LayerEngine
from ..gateware.frameengine import FrameEngine
from ..gateware.hardwired import HardwiredLayer
from ..gateware.network import Network
from ..gateware.pool import MaxPooling, SumPooling
from ..gateware.residual import ResidualAdd
from ..gateware.scheduler import FilterScheduler
from ..gateware.transfers import LayerChoice
from ..model import INPUT, Model
from .buffer import BufferModel
from .frame import FrameCycles
from .hardwired import HardwiredCycles
from .joins import AddModel, ConcatModel, ForkModel

__all__ = ["Timing", "measure"]

_MOST_IMAGES = 12
"""Images after which the interval is taken as it is, should it still vary."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """When a network takes and gives, fed without a gap and never held up at its end.

    Parameters
    ----------
    interval : int
        Cycles from one image's last logit to the next one's, once the pipeline is full. Of two
        that take turns, as happens where images take a few cycles, the longer one.
    latency : int
        Cycles from the transfer of the first image's first value to that of its last logit.
    busy : mapping of str to int
        For each weighted layer, cycles of one interval in which its array takes a word, or in
        which its window moves if it is hard-wired.
    starved : mapping of str to int
        Cycles in which its array could take one but its window has none; its window could move but
        has no pixel.
    queues : mapping of str to tuple of int
        For each addition or concatenation, depths of its queues with which nothing would be any
        later, if none of them was ever full. 0 where there is no queue.
    """

    interval: int
    latency: int
    busy: Mapping[str, int]
    starved: Mapping[str, int]
    queues: Depths


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
        scheduler = engine.scheduler
        if isinstance(scheduler, FilterScheduler):
            self.program = [(*step, waits) for step, waits in zip(
                scheduler.program, scheduler.waits, strict=True)]
            self.parts, self.single = 1, False
        else:   # whose sum is its only register, and whose parameters come in parts
            self.program = [(*step, True) for step in engine.folded.drain_program]
            self.parts, self.single = engine.folded.parameter_parts, True
        self.last_stage = 1 << engine.requantizer.latency - 1
        self.parameters = 0     # parts that are missing
        # Writer and reader.
        self.filled = self.used = self.word = self.window = self.row = 0
        self.slack = -self.steps[0].rows
        self.released = 0
        self.arrives = False
        self.register = window.register
        self.ahead = BufferModel()
        self.waiting: list[tuple[bool, int]] = []   # in it: whether a pass ends, rows to release
        self.staged = self.staged_last = self.held = self.held_last = False
        self.offered = self.offered_last = False
        # Array, scheduler, requantizer, buffer.
        self.valids = self.lasts = self.remaining = self.step = self.pipeline = 0
        self.summed = False
        self.buffer = BufferModel()
        self.busy = self.starved = 0

    @property
    def out(self) -> bool:
        """``valid`` of the output."""
        return self.buffer.out

    def tick(self, valid: bool, ready: bool) -> None:
        """One clock edge; ``valid`` of the input, ``ready`` of the output before it."""
        # What is combinational, from the output back.
        result = self.pipeline & self.last_stage != 0
        requantizes = not result or self.buffer.ready
        takes, ends, waits = self.program[self.step]
        room = not (ends or self.single) or not self.summed or requantizes
        if self.parameters:
            self.parameters -= 1
            room = False
        holds = self.remaining != 0
        drains = (holds or not waits) and room
        taken = holds and takes and room
        ending = self.valids & self.lasts & self.top != 0
        advance = not (ending and holds)
        moves = advance or not self.offered
        available = self.slack >= 0
        self.busy += self.offered and advance
        self.starved += advance and not self.offered

        # Buffer and requantizer.
        self.buffer.tick(result, ready)
        if requantizes:
            self.pipeline = (self.pipeline << 1 & 2 * self.last_stage - 1) | self.summed
            self.summed = False
        # Scheduler and array.
        if drains:
            self.summed = self.summed or ends
            self.parameters = self.parts - 1
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
        released, self.released = self.released, 0
        written = False
        if valid and self.used != self.rows:
            self.filled += 1
            written = self.filled == self.values
            if written:
                self.filled = 0
        if self.register:
            steps = available and self.ahead.ready
            if moves:
                self.offered, self.offered_last = self.held, self.held_last
                self.held, self.held_last = self.staged, self.staged_last
                self.staged = self.ahead.out
                if self.staged:
                    self.staged_last, self.released = self.waiting.pop(0)
            self.ahead.tick(available, moves)
            if steps:
                self.waiting.append(self._next_word())
        elif moves:
            self.offered, self.offered_last = self.staged, self.staged_last
            self.staged = available
            if available:
                self.staged_last, self.released = self._next_word()
        self.used += written - released
        self.slack += self.arrives if self.register else written
        self.arrives = written

    def _next_word(self) -> tuple[bool, int]:
        """The reader's step: whether it ends a pass, and the rows that nobody needs after it."""
        self.word += 1
        if self.word < self.words:
            return False, 0
        self.word = 0
        self.window += 1
        if self.window < self.windows:
            return True, 0
        self.window = 0
        step = self.steps[self.row]
        self.row = (self.row + 1) % len(self.steps)
        self.slack -= step.release + self.steps[self.row].rows - step.rows
        return True, step.release


_Weighted = _Engine | HardwiredCycles | FrameCycles


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


class _Graph:
    """The components of a network, and the state of every stream between them."""

    def __init__(self, network: Network) -> None:
        # Components with the numbers of the streams into them and out of them.
        self.engines: dict[str, tuple[_Engine, int, int]] = {}
        self.hardwired: dict[str, tuple[HardwiredCycles | FrameCycles, int, int]] = {}
        self.pools: list[tuple[_Pool, int, int]] = []
        self.joins: dict[str, tuple[AddModel | ConcatModel, list[int], int]] = {}
        self.forks: list[tuple[ForkModel, int, list[int]]] = []
        # Those whose input is ready as their output is, from the network's end to its start.
        self.through: list[Any] = []
        self.valid: list[bool] = []
        self.free: dict[str, list[int]] = {}
        self._offer(network, INPUT)
        for layer in network.model.layers:
            inputs = [self.free[edge].pop(0) for edge in layer.inputs]
            output, stage = len(self.valid), network.stages[layer.name]
            if isinstance(stage, LayerEngine):
                self.engines[layer.name] = _Engine(stage), inputs[0], output
            elif isinstance(stage, (HardwiredLayer, FrameEngine)):
                model = (HardwiredCycles(stage) if isinstance(stage, HardwiredLayer)
                         else FrameCycles(stage))
                self.hardwired[layer.name] = model, inputs[0], output
                self.through.insert(0, self.hardwired[layer.name])
            elif isinstance(stage, (ResidualAdd, ChannelConcat)):
                join = AddModel(stage) if isinstance(stage, ResidualAdd) else ConcatModel(stage)
                self.joins[layer.name] = join, inputs, output
                self.through.insert(0, self.joins[layer.name])
            else:
                self.pools.append((_Pool(stage), inputs[0], output))
                self.through.insert(0, self.pools[-1])
            self._offer(network, layer.name)
        self.ready = [True] * len(self.valid)
        self.last = len(self.valid) - 1     # the argmax always takes it
        self.valid[0] = True
        self.weighted: dict[str, tuple[_Weighted, int, int]] = {
            **self.engines, **self.hardwired}
        self.simple: list[tuple[_Weighted | _Pool, int, int]] = [
            *self.engines.values(), *self.hardwired.values(), *self.pools]
        self.rings = [(engine, source) for engine, source, _ in self.engines.values()]
        self.outs: list[tuple[_Weighted | _Pool | AddModel | ConcatModel, int]] = [
            *((stage, output) for stage, _, output in self.simple),
            *((join, output) for join, _, output in self.joins.values())]

    def _offer(self, network: Network, edge: str) -> None:
        """A new stream, and those behind its fork."""
        stream = len(self.valid)
        self.valid.append(False)
        self.free[edge] = [stream]
        if edge in network.forks:
            count = network.forks[edge].count
            outputs = self.free[edge] = list(range(stream + 1, stream + 1 + count))
            self.valid += [False] * count
            self.forks.append((ForkModel(count), stream, outputs[:]))
            self.through.insert(0, self.forks[-1])

    def tick(self) -> bool:
        """One clock cycle; whether the last layer gives a logit in it."""
        valid, ready = self.valid, self.ready
        for giver, output in self.outs:
            valid[output] = giver.out
        for fork, source, outputs in self.forks:
            offered = valid[source]
            for output, had in zip(outputs, fork.had, strict=True):
                valid[output] = offered and not had
        for engine, source in self.rings:
            ready[source] = engine.used != engine.rows
        for node, source, output in self.through:
            if isinstance(source, list):
                accepted = node.accepts([valid[each] for each in source], ready[output])
                for each, accepts in zip(source, accepted, strict=True):
                    ready[each] = accepts
            elif isinstance(node, ForkModel):
                ready[source] = node.accepts([ready[each] for each in output])
            else:
                ready[source] = node.accepts(ready[output])
        for stage, source, output in self.simple:
            stage.tick(valid[source], ready[output])
        for join, operands, output in self.joins.values():
            join.tick([valid[each] for each in operands], ready[output])
        for fork, source, outputs in self.forks:
            if valid[source]:
                fork.tick([ready[output] for output in outputs])
        return valid[self.last]


def measure(model: Model, foldings: Mapping[str, LayerChoice], *,
            memory_register: bool = False, queues: Depths | None = None) -> Timing:
    """Interval and latency of a model's :class:`~flightrtl.gateware.Network`.

    Takes some microseconds per layer and cycle.

    Parameters
    ----------
    model, foldings, memory_register, queues
        As for the network.
    """
    graph = _Graph(Network(model, foldings, memory_register=memory_register, queues=queues))
    logits = model.output.size
    winner = False  # the register of the argmax, which always moves on
    cycle = count = taken = 0
    finished: list[int] = []
    marks: list[dict[str, tuple[int, int]]] = []
    while True:
        if winner:
            count += 1
            if count % logits == 0:
                finished.append(cycle)
                marks.append({name: (engine.busy, engine.starved)
                              for name, (engine, _, _) in graph.weighted.items()})
                spans = [b - a for a, b in zip(finished, finished[1:], strict=False)]
                # While buffers fill, more than an image comes in for each that goes out; queues of
                # branches may be endless here, and never full.
                filling = model.chain and taken != model.input.size
                taken = 0
                if (len(spans) >= 3 and spans[-1] == spans[-2] and not filling
                        or len(spans) >= _MOST_IMAGES):
                    break
        winner = graph.tick()
        taken += graph.ready[0]
        cycle += 1
    return Timing(
        interval=max(spans[-2:]), latency=finished[0],
        busy={name: marks[-1][name][0] - marks[-2][name][0] for name in graph.weighted},
        starved={name: marks[-1][name][1] - marks[-2][name][1] for name in graph.weighted},
        queues={name: join.needed for name, (join, *_) in graph.joins.items()})

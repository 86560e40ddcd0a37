# amaranth: UnusedElaboratable=no
# (An object is also the answer in NumPy: its parts need not become hardware.)
"""A whole network: the pipeline of engines for a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amaranth import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import ArrayLike

from ..formats import IntArray
from ..loadable import Capacity, LoadableModel
from ..model import (
    INPUT,
    Add,
    Concat,
    Convolution,
    Dense,
    Join,
    Layer,
    MaxPool,
    Model,
    SumPool,
    TensorType,
    WeightedLayer,
)
from ..modelfile import ModelError
from ..protocol import link_problems
from .argmax import Argmax
from .concat import ChannelConcat
from .dataflow import Depths, completes, direct, least_depths
from .engine import ConvolutionEngine, DenseEngine, LayerEngine
from .flash import FlashSignature
from .folding import FoldedLayer
from .fork import StreamFork
from .frameengine import FrameEngine
from .framing import Framed, FramedLayer
from .hardwired import Hardwired, HardwiredLayer
from .loadablestream import LoadableStream, WriteSignature
from .mapstream import map_shape
from .pe import activation_shape
from .pool import MaxPooling, SumPooling
from .queue import StreamQueue
from .residual import ResidualAdd
from .transfers import LayerChoice, stream_pixels

__all__ = ["Network", "joiner", "require_supported", "unsupported"]

_MOST_SIDE = 1 << 16
"""Of a map, in any of its dimensions: counters have a limit, so that a slip is noticed."""

Stage = LayerEngine | HardwiredLayer | FrameEngine | MaxPooling | SumPooling


def _stage(layer: Layer, source: TensorType, pixels: int, folding: LayerChoice | None,
           register: bool, capacity: Capacity | None, number: int | None) -> Stage:
    """The component that computes a layer that joins no maps; it is fed ``pixels`` at a time."""
    if isinstance(layer, WeightedLayer):
        assert folding is not None      # stream_pixels has seen to that
        if isinstance(folding, Hardwired):
            assert isinstance(layer, (Convolution, Dense))
            if capacity is not None:
                raise ValueError(f"layer {layer.name!r} is hard-wired: its weights cannot be "
                                 "replaced; fold it")
            return HardwiredLayer(layer, source, channels=1, filters=1, pixels=folding.pixels,
                                  stage=folding.stage, register=register)
        if isinstance(folding, Framed):
            assert isinstance(layer, (Convolution, Dense))
            if capacity is not None:
                raise ValueError(f"layer {layer.name!r} is framed: its weights cannot be replaced "
                                 "yet; fold it")
            return FrameEngine(FramedLayer(layer, source, folding, register))
        folded = FoldedLayer(layer, source, folding, pixels, capacity)
        if isinstance(layer, Dense):
            return DenseEngine(folded, register=register, number=number)
        if isinstance(layer, Convolution):
            return ConvolutionEngine(folded, register=register, number=number)
    if isinstance(layer, SumPool):
        return SumPooling(shape=source.shape, kernel=layer.kernel, stride=layer.stride,
                          bias=layer.bias, shift=layer.shift, format=source.format,
                          output=layer.output, pixels=pixels)
    if isinstance(layer, MaxPool):
        return MaxPooling(shape=source.shape, kernel=layer.kernel, stride=layer.stride,
                          format=source.format, pixels=pixels)
    raise TypeError(f"no gateware for {layer!r}")


def joiner(model: Model, layer: Join, depths: tuple[int, ...], *, pixels: int,
           register: bool) -> ResidualAdd | ChannelConcat:
    """The component that computes an addition or a concatenation, with queues of these depths."""
    sources = [model.tensors[edge] for edge in layer.inputs]
    common: dict[str, Any] = {
        "formats": [source.format for source in sources], "shifts": layer.shifts,
        "bias": layer.bias, "shift": layer.shift, "output": layer.output, "pixels": pixels,
        "depths": depths, "register": register}
    if isinstance(layer, Add):
        return ResidualAdd(**common)
    return ChannelConcat(channels=[source.shape[2] for source in sources], **common)


def unsupported(model: Model) -> list[str]:
    """All that there is no gateware for, one sentence each; empty if there is for everything.

    Parameters
    ----------
    model : Model
        Free of problems (:func:`flightrtl.check.check`).
    """
    problems = [f"layer {layer.name!r}: there is no hardware for layers of the type "
                f"{type(layer).__name__}: train a network without it"
                for layer in model.layers
                if not isinstance(layer, (WeightedLayer, MaxPool, Add, Concat))]
    if problems:            # what follows from such a layer is not known
        return problems
    return [f"{'the image' if name == INPUT else f'the result of layer {name!r}'} has "
            f"{' x '.join(map(str, kind.shape))} values: hardware takes up to {_MOST_SIDE:,} "
            "rows, columns and channels: use smaller images or fewer filters"
            for name, kind in model.tensors.items() if max(kind.shape) > _MOST_SIDE]


def require_supported(model: Model, *, link: bool = False) -> None:
    """Do nothing for a model that can be built.

    Parameters
    ----------
    model : Model
        Free of problems (:func:`flightrtl.check.check`).
    link : bool
        Whether a host must be able to talk to it, as to every design for a board.

    Raises
    ------
    ModelError
        With all that :func:`unsupported`, and with ``link``
        :func:`~flightrtl.protocol.link_problems`, find.
    """
    problems = unsupported(model) + (link_problems(model) if link else [])
    if problems:
        what = "design for a board" if link else "hardware"
        raise ModelError(f"no {what} can be built for model {model.name!r} (flightrtl.golden "
                         "computes it)", problems)


class Network(wiring.Component):
    """A model as a graph of stream components, all layers at work at the same time.

    Images may follow each other without a gap. The slowest layer sets the pace: an image every
    ``max(FoldedLayer.cycles)`` cycles, or as many as it has values, if that is more. A result
    that several layers take goes through a :class:`~flightrtl.gateware.fork.StreamFork`; where
    ways meet again in an addition or a concatenation, it has queues, so that the network never
    deadlocks (:mod:`flightrtl.gateware.dataflow`).

    Cost: the sum of the engines. Latency and throughput: those of the planner's report.

    Parameters
    ----------
    model : Model
        The network, checked. Of a :class:`~flightrtl.loadable.LoadableModel`, the contents of the
        memories can be replaced by those of another one.
    foldings : mapping of str to Folding, Hardwired or Framed
        For each convolution and dense layer, by name.
    memory_register : bool
        A register behind each memory: free on ECP5 and needed for its clock; off on iCE40, see
        :class:`~flightrtl.gateware.weights.RomStream`.
    queues : mapping of str to tuple of int, optional
        For each addition or concatenation, by name, the depths of the queues before its
        operands. By default they are as deep as it takes for the network not to deadlock, made
        round by
        :meth:`~flightrtl.gateware.queue.StreamQueue.round`. Deeper ones may be faster: the
        planner knows.

    Members
    -------
    i : In(stream) of the input's activation
        Images by row, column, channel.
    o : Out(stream) of struct
        ``logit``, one after the other; ``last``: 1 on an image's last logit; ``winner``: valid
        on that transfer, the index of the greatest logit (the first of equal ones).
    weights_NAME : In(stream)
        For each layer that is :class:`~flightrtl.gateware.framing.Framed` with ``external``, its
        weights, see :class:`~flightrtl.gateware.frameengine.FrameEngine`.
    flash : Out(FlashSignature)
        If a layer is :class:`~flightrtl.gateware.framing.Framed` with ``flash``: to and from the
        flash.
    write : In(WriteSignature)
        Of a writable model only: into :attr:`memories`, while the network is in reset, as an
        ``amaranth.ResetInserter`` around it does that.

    Raises
    ------
    ValueError
        If a layer has no folding, a folding no layer, a folding does not fit its layer, the
        layers do not agree on the pixels of a transfer
        (:func:`~flightrtl.gateware.transfers.stream_pixels`), two read their weights from a
        flash, or ``queues`` leaves one of its joins out or would let the network deadlock.
    ModelError
        If there is no gateware for a layer.
    """

    i: stream.Interface
    o: stream.Interface
    flash: Any
    write: Any

    def __init__(self, model: Model, foldings: Mapping[str, LayerChoice], *,
                 memory_register: bool = False, queues: Depths | None = None) -> None:
        require_supported(model)
        unknown = set(foldings) - {layer.name for layer in model.layers
                                   if isinstance(layer, WeightedLayer)}
        if unknown:
            raise ValueError(f"no layer with weights is called {', '.join(sorted(unknown))}")
        self.model = model
        pixels = stream_pixels(model, foldings)
        if pixels[model.layers[-1].name] > 1:
            raise ValueError(f"layer {model.layers[-1].name!r} gives the logits: it must be "
                             "folded with pixels=1")
        capacities = model.capacities if isinstance(model, LoadableModel) else {}
        self.writable = isinstance(model, LoadableModel) and model.writable
        numbers = {name: 2 * n for n, name in enumerate(capacities)} if self.writable else {}
        simple = {layer.name: _stage(layer, model.source(layer), pixels[layer.inputs[0]],
                                     foldings.get(layer.name), memory_register,
                                     capacities.get(layer.name), numbers.get(layer.name))
                  for layer in model.layers if not isinstance(layer, Join)}
        self.queues = self._queues(simple, queues, memory_register)
        """Depths of the queues before each addition or concatenation."""
        self.stages: dict[str, Stage | ResidualAdd | ChannelConcat] = {
            layer.name: joiner(model, layer, self.queues[layer.name],
                               pixels=pixels[layer.name], register=memory_register)
            if isinstance(layer, Join) else simple[layer.name] for layer in model.layers}
        edges = [edge for layer in model.layers for edge in layer.inputs]
        self.forks = {edge: StreamFork(map_shape(model.tensors[edge].format,
                                                 pixels=pixels[edge]), edges.count(edge))
                      for edge in dict.fromkeys(edges) if edges.count(edge) > 1}
        """For each result that several take, or one twice."""
        self.argmax = Argmax(width=model.output.format.bits, count=model.output.size)
        self.external = {name: stage for name, stage in simple.items()
                         if isinstance(stage, FrameEngine) and stage.rom is None}
        """Layers whose weights come from outside, over a stream or from a flash."""
        flashed = [stage for stage in self.external.values() if stage.reader]
        if len(flashed) > 1:
            raise ValueError(f"layers {flashed[0].framed.layer.name!r} and "
                             f"{flashed[1].framed.layer.name!r} take their weights from a flash: "
                             "there is one flash, for one layer")
        self.flashed = flashed[0] if flashed else None
        """The engine whose weights come from a flash."""
        super().__init__({
            "i": In(stream.Signature(activation_shape(model.input.format))),
            "o": Out(self.argmax.o.signature),
            **{f"weights_{name}": In(stage.weights.signature.flip())
               for name, stage in self.external.items() if not stage.reader},
            **({"flash": Out(FlashSignature())} if self.flashed else {}),
            **({"write": In(WriteSignature())} if self.writable else {}),
        })

    @property
    def memories(self) -> list[LoadableStream]:
        """The memories that can be replaced, by number: of each layer, weights and parameters."""
        found: list[LoadableStream] = []
        for stage in self.stages.values():
            if isinstance(stage, LayerEngine) and stage.parameters is not None:
                assert isinstance(stage.weights, LoadableStream)
                found += [stage.weights, stage.parameters.memory]
        return found

    def _queues(self, stages: Mapping[str, Stage], queues: Depths | None,
                register: bool) -> dict[str, tuple[int, ...]]:
        """``queues``, or what is enough."""
        if not queues and self.model.chain:
            return {}
        if queues is None:
            return {name: tuple(StreamQueue.round(depth, register=register) for depth in depths)
                    for name, depths in least_depths(self.model, stages).items()}
        joins = {layer.name: layer for layer in self.model.layers if isinstance(layer, Join)}
        if set(queues) != set(joins):
            raise ValueError(f"queues must name the additions and concatenations, "
                             f"{', '.join(joins) or 'none'}, not {', '.join(queues) or 'none'}")
        for name, depths in queues.items():
            inputs = joins[name].inputs
            if len(depths) != len(inputs):
                raise ValueError(f"queues: layer {name!r} has {len(inputs)} inputs, but there are "
                                 f"{len(depths)} depths: give one for each")
            for operand, depth in enumerate(depths):
                if not depth and not direct(self.model, joins[name], operand):
                    raise ValueError(f"queues: input {inputs[operand]!r} of layer {name!r} needs "
                                     "a queue of 2 or more")
        if not completes(self.model, stages, queues):
            least = least_depths(self.model, stages)
            raise ValueError(f"queues: with {dict(queues)} the network would deadlock; "
                             f"{least} are enough")
        return dict(queues)

    def compute(self, images: ArrayLike) -> IntArray:
        """Logits (n, classes) of (n, height, width, channels) images, stage by stage."""
        maps: dict[str, Any] = {INPUT: images}
        for layer in self.model.layers:
            inputs = [maps[edge] for edge in layer.inputs]
            maps[layer.name] = self.stages[layer.name].compute(*inputs)
            for edge in layer.inputs:
                if self.model.last_taker[edge] == layer.name:   # give its memory back
                    maps.pop(edge, None)
        values: Any = maps.popitem()[1]
        return values.reshape(len(values), -1)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # The streams of each result that nobody is connected to yet.
        free: dict[str, list[Any]] = {}

        def offer(edge: str, result: Any) -> None:
            free[edge] = [result]
            if edge in self.forks:
                # No layer's name has capital letters.
                m.submodules[f"{edge}_FORK"] = fork = self.forks[edge]
                wiring.connect(m, result, fork.i)
                free[edge] = list(fork.o)

        offer(INPUT, wiring.flipped(self.i))
        for layer in self.model.layers:
            stage = self.stages[layer.name]
            m.submodules[layer.name] = stage
            ports = (stage.operands if isinstance(stage, (ResidualAdd, ChannelConcat))
                     else [stage.i])
            if self.writable and isinstance(stage, LayerEngine):
                wiring.connect(m, wiring.flipped(self.write), stage.write)
            for edge, port in zip(layer.inputs, ports, strict=True):
                wiring.connect(m, free[edge].pop(0), port)
            engine = self.external.get(layer.name)
            if engine is not None and not engine.reader:
                wiring.connect(m, wiring.flipped(getattr(self, f"weights_{layer.name}")),
                               engine.weights)
            offer(layer.name, stage.o)
        if self.flashed is not None:
            wiring.connect(m, self.flashed.flash, wiring.flipped(self.flash))
        m.submodules.argmax = self.argmax
        wiring.connect(m, free[self.model.layers[-1].name].pop(), self.argmax.i)
        wiring.connect(m, self.argmax.o, wiring.flipped(self.o))
        return m

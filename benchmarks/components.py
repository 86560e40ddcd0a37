# amaranth: UnusedElaboratable=no
# (Of some layers, only a part becomes hardware.)
"""What each component costs alone, synthesized: the figures that the docstrings state."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from amaranth.back import rtlil
from amaranth.lib import wiring

from flightrtl import contents, implement, modelfile, toolchain
from flightrtl.formats import ActivationFormat, FixedFormat
from flightrtl.gateware import (
    Argmax,
    AxiStreamNetwork,
    ChannelConcat,
    ChannelGatherer,
    ChannelSerializer,
    CsrNarrow,
    CsrNetwork,
    DelayLine,
    DualPortRam,
    FilterScheduler,
    FlashReader,
    FoldedLayer,
    Folding,
    FrameBuffer,
    Framed,
    FramedLayer,
    FrameDrain,
    FrameEngine,
    HardwiredLayer,
    ImageQueue,
    LayerEngine,
    LoadableStream,
    MapReorder,
    MaxPooling,
    MultiplyPE,
    Network,
    ParameterStream,
    PEArray,
    RepeatingRom,
    Requantizer,
    ResidualAdd,
    ShiftClamp,
    ShiftPE,
    SlidingWindow,
    SlotScheduler,
    StreamBuffer,
    StreamFork,
    StreamQueue,
    SumPooling,
    WeightBuffer,
    WishboneNetwork,
    WishboneRegisters,
    XnorPE,
)
from flightrtl.gateware.link import Deframer, Framer, Link, Loader, Responder
from flightrtl.gateware.spi import SpiPeripheral
from flightrtl.gateware.uart import Uart
from flightrtl.loadable import loadable
from flightrtl.model import Convolution, TensorType, WeightedLayer
from flightrtl.progress import Progress
from flightrtl.protocol import Frame, Identity
from flightrtl.report import table

from .results import add_options, publish

RESULTS = Path(__file__).with_name("components.json")
SYNTHESIS = {"ice40": "synth_ice40 -abc9 -device u -top top",
             "ecp5": "synth_ecp5 -abc9 -nowidelut -top top"}
_RAMS = ("SB_RAM40_4K", "DP16KD", "PDPW16KD")


def _conv3() -> FoldedLayer:
    """The largest layer of the bundled MNIST model, as on the iCEBreaker."""
    model = modelfile.load("mnist")
    layer = next(layer for layer in model.layers if layer.name == "conv3")
    assert isinstance(layer, WeightedLayer)
    return FoldedLayer(layer, model.source(layer), Folding(3, 4))


def _conv3_framed() -> FramedLayer:
    """The same layer, each weight read once."""
    folded = _conv3()
    return FramedLayer(folded.layer, folded.source, Framed(3, 4))


def _loadable_conv3() -> FoldedLayer:
    """The same layer for a design whose contents can be replaced."""
    model = loadable(modelfile.load("mnist"), "ice40")
    layer = next(layer for layer in model.layers if layer.name == "conv3")
    assert isinstance(layer, WeightedLayer)
    return FoldedLayer(layer, model.source(layer), Folding(3, 4),
                       capacity=model.capacities["conv3"])


def _loadable_engine(number: int | None = None) -> LayerEngine:
    """Its engine with placeholders for contents, as it is synthesized."""
    engine = LayerEngine(_loadable_conv3(), number=number)
    assert isinstance(engine.weights, LoadableStream)
    contents.blank([engine.weights, _parameters(engine).memory])
    return engine


def _parameters(engine: LayerEngine) -> ParameterStream:
    assert engine.parameters is not None
    return engine.parameters


def _multiply(activation: int, weight: int) -> MultiplyPE:
    return MultiplyPE(simd=4, activation=ActivationFormat(activation), weight=FixedFormat(weight))


def _first(model: str) -> tuple[Convolution, TensorType]:
    """The first layer of a bundled model, and what it takes."""
    loaded = modelfile.load(model)
    layer = loaded.layers[0]
    assert isinstance(layer, Convolution)
    return layer, loaded.input


def _requantizer(spread: bool) -> Requantizer:
    rng = np.random.default_rng(0)
    return Requantizer(low=-(1 << 19), high=(1 << 19) - 1,
                       bias=rng.integers(-9999, 9999, 24).tolist(),
                       shift=(rng.integers(6, 10, 24) if spread else np.full(24, 6)).tolist(),
                       output=ActivationFormat(8))


def _add(shifts: tuple[int, int], shift: int) -> ResidualAdd:
    form = ActivationFormat(8)
    return ResidualAdd(formats=(form, form), shifts=shifts, bias=1 << shift - 1, shift=shift)


def _concat(shifts: tuple[int, int], shift: int) -> ChannelConcat:
    form = ActivationFormat(8)
    return ChannelConcat(formats=(form, form), channels=(16, 16), shifts=shifts,
                         bias=1 << shift >> 1, shift=shift)


def _network() -> Network:
    """The bundled digits model, as on the iCEstick."""
    return Network(modelfile.load("digits"), {"conv1": Folding(1, 1), "dense1": Folding(1, 1)})


def _link(make: Callable[[Frame, Identity], wiring.Component], model: str,
          loadable: bool = False) -> wiring.Component:
    """A link, or a part of it, for a bundled model."""
    loaded = modelfile.load(model)
    identity = Identity.of(loaded, modelfile.sha256(model))
    return make(Frame.of(loaded), replace(identity, loadable=loadable))


COMPONENTS: dict[str, Callable[[], wiring.Component]] = {
    "ShiftPE, 4 terms, exact": lambda: ShiftPE(simd=4),
    "ShiftPE, 4 terms": lambda: ShiftPE(simd=4, exact=False),
    "MultiplyPE, 4 of 8 x 2 bits": lambda: _multiply(8, 2),
    "MultiplyPE, 4 of 8 x 4 bits": lambda: _multiply(8, 4),
    "MultiplyPE, 4 of 8 x 8 bits": lambda: _multiply(8, 8),
    "MultiplyPE, 4 of 4 x 4 bits": lambda: _multiply(4, 4),
    "XnorPE, 16 bits": lambda: XnorPE(simd=16),
    "XnorPE, 64 bits": lambda: XnorPE(simd=64),
    "XnorPE, 4 of 8 bits": lambda: XnorPE(simd=4, activation=ActivationFormat(8)),
    "PEArray, 8 lanes of 4": lambda: PEArray(lanes=8, simd=4, width=20),
    "FilterScheduler, 24 filters": lambda: FilterScheduler(
        k=[1, 2] * 6 + [1] * 12, lanes=3, width=20),
    "WeightBuffer, 12 terms x 396": lambda: WeightBuffer(_conv3()),
    "SlidingWindow, 3x3, 4 of 16 channels": lambda: SlidingWindow(
        shape=(7, 7, 16), kernel=(3, 3), simd=4, passes=10),
    "the same with padding": lambda: SlidingWindow(
        shape=(7, 7, 16), kernel=(3, 3), padding=(1, 1, 1, 1), simd=4, passes=10),
    "the same by columns, 12": lambda: SlidingWindow(
        shape=(7, 7, 16), kernel=(3, 3), padding=(1, 1, 1, 1), simd=12, column=True, passes=10),
    "the same, 2 pixels of 8 channels": lambda: SlidingWindow(
        shape=(32, 32, 16), kernel=(3, 3), padding=(1, 1, 1, 1), simd=8, pixels=2,
        source_pixels=2),
    "Requantizer, 24 filters": lambda: _requantizer(False),
    "the same, shifts of 4 kinds": lambda: _requantizer(True),
    "StreamBuffer, 8 bits": lambda: StreamBuffer(8),
    "StreamFork, to 2": lambda: StreamFork(8, 2),
    "StreamQueue, 512 words of 8 bits": lambda: StreamQueue(8, 513),
    "the same with a register": lambda: StreamQueue(8, 514, register=True),
    "the same, 16 words": lambda: StreamQueue(8, 18, register=True),
    "the same, 500 words": lambda: StreamQueue(8, 502, register=True),
    "ResidualAdd, 8 bits, halved": lambda: _add((0, 0), 1),
    "the same, scales apart, clamped": lambda: _add((0, 2), 2),
    "ChannelConcat, 2 of 16 channels": lambda: _concat((0, 0), 0),
    "the same, scales apart, rounded": lambda: _concat((0, 2), 2),
    "MaxPooling, 2x2 on 28x28x8": lambda: MaxPooling(
        shape=(28, 28, 8), kernel=(2, 2), stride=(2, 2)),
    "SumPooling, 2x2 on 28x28x8": lambda: SumPooling(
        shape=(28, 28, 8), kernel=(2, 2), stride=(2, 2), bias=2, shift=2),
    "Argmax, 10 logits of 16 bits": lambda: Argmax(count=10, width=16),
    "ConvolutionEngine, conv3 of mnist": lambda: LayerEngine(_conv3()),
    "the same, loadable": _loadable_engine,
    "the same, loadable and writable": lambda: _loadable_engine(0),
    "its LoadableStream, 12 terms x 396": lambda: _loadable_engine().weights,
    "its LoadableStream, writable": lambda: _loadable_engine(0).weights,
    "its ParameterStream": lambda: _parameters(_loadable_engine()),
    "its ParameterStream, writable": lambda: _parameters(_loadable_engine(0)),
    "SlotScheduler, 20 bits": lambda: SlotScheduler(width=20, shift_bits=2),
    "ShiftClamp, 20 bits to 8, 4 shifts": lambda: ShiftClamp(
        width=20, least=6, shift_bits=2, output=ActivationFormat(8)),
    "ChannelSerializer, 8 channels to 1": lambda: ChannelSerializer(ActivationFormat(8), source=8),
    "ChannelGatherer, 1 channel to 8": lambda: ChannelGatherer(ActivationFormat(8), channels=8),
    "HardwiredLayer, conv1 of mnist": lambda: HardwiredLayer(*_first("mnist")),
    "its PixelWindow": lambda: HardwiredLayer(*_first("mnist")).window,
    "its ShiftAddGraph": lambda: HardwiredLayer(*_first("mnist")).sums,
    "its ParallelRequantizer": lambda: HardwiredLayer(*_first("mnist")).requantizer,
    "the same, registers behind two adders": lambda: HardwiredLayer(*_first("mnist"), stage=2),
    "the same by an engine, 2 pixels of 8 x 5": lambda: LayerEngine(
        FoldedLayer(*_first("mnist"), Folding(8, 5, column=True, pixels=2))),
    "DualPortRam, 512 words of 8 bits": lambda: DualPortRam(8, 512),
    "RepeatingRom, 16 groups of 4": lambda: RepeatingRom(
        6, np.arange(64).reshape(16, 4).tolist(), repeat=49),
    "DelayLine, 256 words of 80 bits": lambda: DelayLine(80, 256),
    "FrameBuffer, 3x3, 8 of 64 channels": lambda: FrameBuffer(
        shape=(8, 8, 64), kernel=(3, 3), padding=(1, 1, 1, 1), simd=8, passes=16),
    "FrameDrain, 30 filters on 4 lanes": lambda: FrameDrain(
        drain=[[(True, 0)] * 4] * 7 + [[(True, 0)] * 2 + [(True, None)] * 2], pixels=64, width=20),
    "MapReorder, 32 filters, 64 pixels": lambda: MapReorder(
        order=np.arange(32).reshape(8, 4).tolist(), pixels=64),
    "FrameEngine, conv3 of mnist": lambda: FrameEngine(_conv3_framed()),
    "FlashReader, words of 48 bits": lambda: FlashReader(48, 360),
    "Network, digits": _network,
    "AxiStreamNetwork of the same": lambda: AxiStreamNetwork(_network()),
    "WishboneNetwork of the same": lambda: WishboneNetwork(_network()),
    "CsrNetwork of the same, 8 bits": lambda: CsrNetwork(_network()),
    "ImageQueue, 28x28 of 8 bits": lambda: ImageQueue(ActivationFormat(8), 784),
    "WishboneRegisters": lambda: WishboneRegisters(5),
    "CsrNarrow, 8 bits": lambda: CsrNarrow(5),
    "HardwiredLayer, conv1 of digits": lambda: HardwiredLayer(*_first("digits")),
    "Uart, 40 cycles per bit": lambda: Uart(40),
    "SpiPeripheral": SpiPeripheral,
    "Deframer": Deframer,
    "Framer": Framer,
    "Loader": Loader,
    "Responder for mnist": lambda: _link(Responder, "mnist"),
    "the same, weights loadable": lambda: _link(Responder, "mnist", True),
    "Link for mnist": lambda: _link(Link, "mnist"),
    "Link for mnist, weights loadable": lambda: _link(Link, "mnist", True),
    "Link for digits": lambda: _link(Link, "digits"),
    "Link for digits, weights loadable": lambda: _link(Link, "digits", True),
}
"""What is measured, by the name in the table."""


def cells(dut: wiring.Component, family: str) -> dict[str, int]:
    """LUT4s (a CCU2C counts as two), flip-flops and block RAMs of a component."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "top.il").write_text(rtlil.convert(dut, name="top", emit_src=False))
        toolchain.run(toolchain.find("yosys"), [
            "-q", "-p", f"read_rtlil top.il; {implement.UNSET}; {implement.SPLIT_NETS}; "
                        f"{SYNTHESIS[family]}; write_json top.json"],
            folder=folder, log="yosys.log")
        found = json.loads((folder / "top.json").read_text())["modules"]["top"]["cells"]
    count = Counter(cell["type"] for cell in found.values())
    # Distributed RAM of ECP5 takes two slices of four LUT4.
    return {"lut4": count["SB_LUT4"] + count["LUT4"] + 2 * count["CCU2C"]
            + 8 * count["TRELLIS_DPR16X4"],
            "ff": sum(n for kind, n in count.items()
                      if kind.startswith("SB_DFF") or kind == "TRELLIS_FF"),
            "bram": sum(count[kind] for kind in _RAMS)}


def main(arguments: Sequence[str]) -> int:
    """LUT4s, flip-flops and block RAMs of every component alone, on both families."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks components",
                                     description=main.__doc__)
    add_options(parser, RESULTS)
    options = parser.parse_args(arguments)
    progress = Progress(sys.stderr)
    results: dict[str, dict[str, dict[str, int]]] = {}
    for name, make in COMPONENTS.items():
        progress.step(name)
        results[name] = {family: cells(make(), family) for family in SYNTHESIS}
        progress.done()
    document: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks components", *arguments]),
        "date": date.today().isoformat(),
        "tools": {"yosys": toolchain.find("yosys").version},
        "counted": "Yosys' LUT4s (a CCU2C as two), before flip-flops without a LUT take cells",
        "results": results,
    }
    keys = ("lut4", "ff", "bram")
    publish(document, table(
        ["component", *(f"{family} {key}" for family in SYNTHESIS for key in keys)],
        [[name, *(str(result[family][key]) for family in SYNTHESIS for key in keys)]
         for name, result in results.items()]), RESULTS, options)
    return 0

# amaranth: UnusedElaboratable=no
# (Engines are made for their numbers, not to become hardware.)
"""Layers with frame-based weight reuse: what their handshakes do, and what they cost."""

from __future__ import annotations

import math

from ..boards import FlashChip
from ..gateware.delayline import DelayLine
from ..gateware.flash import Flash, FlashReader
from ..gateware.folding import FoldedLayer, Folding
from ..gateware.frameengine import FrameEngine
from ..gateware.framing import FramedLayer
from ..gateware.reorder import MapReorder
from .buffer import BufferModel
from .cost import Cost, registered, total
from .engine import array_cost
from .memories import memory_cells, rom_cells

__all__ = ["FrameCycles", "board_flash", "frame_cost"]

DESELECTED_US = 0.1
"""Time between two commands to a flash, as data sheets of W25Q and N25Q have it: 50 ns to 100."""

# Fitted to engines as nextpnr packs them: seven on ECP5 (``benchmarks/dataflows.json``), five on
# iCE40, of 1 to 7 lanes and 1 to 6 terms.
FRAME_LUT4 = {"ice40": 36, "ecp5": 34}
"""Counters and control of array and frame buffer, per bit of its word, and per bit of the counters
of pixels, of which there are several:"""
FRAME_BIT_LUT4 = 0.3
PIXELS_LUT4 = {"ice40": 25, "ecp5": 35}
DELAY_LUT4 = 8
"""Control of a delay line, and per bit of its address:"""
DELAY_ADDRESS_LUT4 = 1.5
RESULT_LUT4 = {"ice40": 40, "ecp5": 10}
"""Control of drain, requantizer and what follows, per bit of the sum and of its span of shifts,
and per bit of the result:"""
RESULT_SUM_LUT4 = 1.0
RESULT_BIT_LUT4 = 2.0
REORDER_LUT4 = 50
"""Control of a reorder memory, and per bit of its address:"""
REORDER_ADDRESS_LUT4 = 5.0
COUNTER_LUT4 = 14
"""The address of a weight memory."""
FLASH_LUT4 = 80
"""Counters and control of a flash's reader, and per bit of its word, where flip-flops have cells of
their own:"""
FLASH_BIT_LUT4 = 1.0


def board_flash(chip: FlashChip, clock_mhz: float) -> Flash:
    """How a design with a clock of so many MHz reads a board's flash."""
    return Flash(chip.address, half=math.ceil(clock_mhz / (2 * chip.read_mhz)),
                 rest=math.ceil(clock_mhz * DESELECTED_US),
                 wake=math.ceil(clock_mhz * chip.wake_us))


def _rom_cost(family: str, depth: int, width: int) -> Cost:
    lut4, ff, bram = rom_cells(family, depth, width)
    return registered(family, ff, lut4) + Cost(bram=bram)


def _memory_cost(family: str, depth: int, width: int) -> Cost:
    lut4, ff, bram = memory_cells(family, depth, width, block=True)
    return Cost(lut4=round(lut4), ff=ff, bram=bram)


def frame_cost(framed: FramedLayer, family: str, accumulator: int) -> Cost:
    """Estimate for a layer with frame-based weight reuse.

    Parameters
    ----------
    framed : FramedLayer
        The layer and how it is computed.
    family : str
        ``ice40`` or ``ecp5``.
    accumulator : int
        Bits of the sums.
    """
    layer, source, chosen = framed.layer, framed.source, framed.framed
    simd, lanes, pixels = chosen.simd, chosen.lanes, framed.pixels
    array = array_cost(FoldedLayer(layer, source, Folding(lanes, simd)), family, accumulator)
    word = simd * source.format.bits
    depth = chosen.frames * source.size // simd
    several = pixels > 1
    frame = Cost(lut4=round(FRAME_LUT4[family] + FRAME_BIT_LUT4 * word
                            + PIXELS_LUT4[family] * math.log2(pixels)),
                 ff=10 + 60 * several + word * (1 + framed.register))
    parts = [array, frame, _memory_cost(family, depth, word)]
    words = DelayLine.words_of(pixels - 1, framed.register) if several else 0
    if words:
        parts += [Cost(lut4=round(DELAY_LUT4 + DELAY_ADDRESS_LUT4 * math.log2(words)),
                       ff=2 * words.bit_length() + lanes * accumulator * framed.register),
                  _memory_cost(family, words, lanes * accumulator)]
    else:
        parts.append(Cost(ff=(pixels - 1) * lanes * accumulator))
    bits = layer.output.bits
    span = int(layer.shift.max(initial=0) - layer.shift.min(initial=0)).bit_length()
    parts += [Cost(lut4=round(RESULT_LUT4[family] + RESULT_SUM_LUT4 * accumulator * (1 + span)
                              + RESULT_BIT_LUT4 * bits), ff=2 * accumulator + 3 * bits + 30),
              _rom_cost(family, layer.filters, accumulator + span)]
    if not framed.in_order:
        address = math.log2(pixels * layer.filters)
        parts += [Cost(lut4=round(REORDER_LUT4 + REORDER_ADDRESS_LUT4 * address),
                       ff=round(30 + 5 * address)),
                  _memory_cost(family, pixels * layer.filters, bits),
                  _rom_cost(family, layer.filters, layer.filters.bit_length() + 2)]
    if chosen.flash:
        width = framed.word_bits
        parts.append(Cost(lut4=round(FLASH_LUT4 + FLASH_BIT_LUT4 * width), ff=50 + 2 * width))
    elif not chosen.external:
        width = lanes * simd * framed.term.code_bits
        parts += [Cost(lut4=COUNTER_LUT4, ff=10 + width * framed.register),
                  _rom_cost(family, framed.passes * framed.words, width)]
    return total(parts)


class _Reorder:
    """The handshakes of a :class:`~flightrtl.gateware.reorder.MapReorder`."""

    def __init__(self, reorder: MapReorder) -> None:
        last = len(reorder.order) - 1
        # For each value in a pixel of each group: its group's last? In the first, the last group?
        self.groups = [[(n == len(group) - 1, number == 0, number == last)
                        for n in range(len(group))] for number, group in enumerate(reorder.order)]
        self.pixels, self.filters = reorder.pixels, reorder.filters
        self.group = self.pixel = self.step = self.number = self.whole = 0
        self.free = reorder.pixels
        self.register = reorder.register
        self.fetched = self.held = False

    @property
    def out(self) -> bool:
        """``valid`` of the output."""
        return self.held if self.register else self.fetched

    @property
    def ready(self) -> bool:
        """Of the input."""
        return not self.groups[self.group][self.step][1] or self.free != 0

    def tick(self, valid: bool, ready: bool) -> None:
        """One clock edge."""
        put = valid and self.ready
        moves = ready or (self.register and not self.held)
        some = self.whole != 0
        if self.register and moves:
            self.held = self.fetched
        if not self.fetched or moves:
            self.fetched = some
            if some:
                self.number += 1
                if self.number == self.filters:
                    self.number = 0
                    self.free += 1
                    self.whole -= 1
        if put:
            ends, opens, closes = self.groups[self.group][self.step]
            self.step += 1
            if ends:
                self.step = 0
                self.free -= opens
                self.whole += closes
                self.pixel += 1
                if self.pixel == self.pixels:
                    self.pixel = 0
                    self.group = (self.group + 1) % len(self.groups)


class _Flash:
    """The handshakes of a :class:`~flightrtl.gateware.flash.FlashReader`, bit by bit."""

    def __init__(self, reader: FlashReader) -> None:
        self.source = reader.source
        # The commands, and each word: edges of the flash's clock.
        self.first, self.command, self.word = 2 * 8, 2 * 32, 2 * 8 * reader.bytes
        self.count, self.words = reader.count, 0
        self.wait, self.edges = self.source.wake - 1, 0
        self.woken = self.reads = self.data = self.full = self.out = False

    def tick(self, ready: bool) -> None:
        """One clock edge."""
        full = self.full
        if ready or not self.out:
            self.out, self.full = full, False
        if self.wait:
            self.wait -= 1
        elif not self.edges:
            self.edges = self.command if self.woken else self.first
            self.reads, self.woken = self.woken, True
            self.wait = self.source.half - 1
        elif not full or self.edges % 16 != 1:
            self.edges -= 1
            self.wait = self.source.half - 1
            if not self.edges:
                self._ends()

    def _ends(self) -> None:
        """A command or a word."""
        if self.data:
            self.full = True
            self.words += 1
            if self.words == self.count:
                self.words, self.data = 0, False
                self.wait = self.source.rest - 1
                return
        elif self.reads:
            self.data = True
        else:
            self.wait = self.source.wake - 1
            return
        self.edges = self.word


class FrameCycles:
    """The handshakes of a :class:`FrameEngine`, cycle by cycle.

    Its weights are always there, or come from a flash. See :mod:`flightrtl.planner.cycles`.
    """

    def __init__(self, engine: FrameEngine) -> None:
        framed = engine.framed
        self.simd, self.frames = framed.framed.simd, framed.framed.frames
        self.size, self.pixels = engine.frame.size, framed.pixels
        self.register, self.lanes = framed.register, framed.framed.lanes
        # For each weight word, whether sums leave with it.
        self.sweeps = [bool(steps) and word == framed.words - 1 for steps in framed.drain
                       for word in range(framed.words)]
        self.program = [[(takes, index is not None) for takes, index in steps]
                        for steps in framed.drain if steps]
        self.top = 1 << (engine.array.latency - 2)
        self.mask = (self.top << 1) - 1
        self.clearing = (DelayLine.words_of(framed.pixels - 1, framed.register)
                         if framed.pixels > 1 else 0)
        # Gatherer and frame buffer: its memory, and the registers behind it.
        self.count = self.filled = self.written = self.sweep = self.pixel = 0
        self.queue: list[tuple[bool, bool, bool]] = [(False,) * 3] * (2 + self.register)
        self.flash = _Flash(engine.reader) if engine.reader else None
        # Array, drain, requantizer, and what follows.
        self.valids = self.lasts = self.remaining = self.pipeline = 0
        self.group = self.drained = self.step = 0
        self.last = (_Reorder(engine.last) if isinstance(engine.last, MapReorder)
                     else BufferModel())
        self.busy = self.starved = 0

    @property
    def out(self) -> bool:
        """``valid`` of the output."""
        return self.last.out

    def accepts(self, ready: bool) -> bool:
        """``ready`` of the input, which does not depend on that of the output."""
        return self.count != self.simd - 1 or self.filled != self.frames

    def tick(self, valid: bool, ready: bool) -> None:
        """One clock edge; ``valid`` of the input, ``ready`` of the output before it."""
        # What is combinational, from the output back.
        result = self.pipeline & 4 != 0
        requantizes = not result or self.last.ready
        takes, gives = self.program[self.group][self.step]
        holds = self.remaining != 0
        drains = (holds or not takes) and (requantizes or not gives)
        ending = self.valids & self.lasts & self.top != 0
        advance = not (ending and holds)
        takes_word = advance and not self.clearing
        has, offered_last, sweep = self.queue[0]
        offered = has and (self.flash is None or self.flash.out)
        moves = takes_word and offered or not has
        if self.flash is not None:
            self.flash.tick(takes_word and has and sweep)
        self.busy += offered and takes_word
        self.starved += takes_word and not offered

        self.last.tick(result, ready)
        if requantizes:
            self.pipeline = (self.pipeline << 1 & 7) | (drains and gives)
        if ending and not holds:
            self.remaining = self.lanes
        elif drains and takes:
            self.remaining -= 1
        if drains:
            self._next_step()
        if advance:
            self.valids = (self.valids << 1 & self.mask) | (offered and not self.clearing)
            self.lasts = (self.lasts << 1 & self.mask) | offered_last
        if self.clearing:
            self.clearing -= 1
        filled = self.filled
        if valid and self.accepts(ready):
            self.count += 1
            if self.count == self.simd:
                self.count = 0
                self.written += 1
                if self.written == self.size:
                    self.written = 0
                    self.filled += 1
        if moves:
            self.queue = [*self.queue[1:], (filled != 0, self.sweeps[self.sweep],
                                            self.pixel == self.pixels - 1)]
            if filled:
                self._next_pixel()

    def _next_pixel(self) -> None:
        self.pixel += 1
        if self.pixel == self.pixels:
            self.pixel = 0
            self.sweep += 1
            if self.sweep == len(self.sweeps):
                self.sweep = 0
                self.filled -= 1

    def _next_step(self) -> None:
        self.step += 1
        if self.step == len(self.program[self.group]):
            self.step = 0
            self.drained += 1
            if self.drained == self.pixels:
                self.drained = 0
                self.group = (self.group + 1) % len(self.program)

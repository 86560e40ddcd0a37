"""A network behind registers of 32 bits, for a processor: what both bus peripherals have inside."""

from __future__ import annotations

import enum
from typing import Any

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..formats import ActivationFormat, _integer
from .axistream import require_own_weights
from .csr import CsrSignature
from .imagequeue import ImageQueue
from .network import Network
from .ram import DualPortRam

__all__ = ["NetworkRegisters", "Register", "StatusBit"]


class Register(enum.IntEnum):
    """Where each register is, in words of 32 bits; the logits come after them."""

    ID = 0
    INPUT = 1
    OUTPUT = 2
    CONTROL = 3
    STATUS = 4
    DATA = 5
    ROOM = 6
    CLASS = 7
    COUNT = 8
    CYCLES = 9


class StatusBit(enum.IntEnum):
    """Bits of ``STATUS``. All but ``BUSY`` are cleared by writing a 1."""

    DONE = 0
    BUSY = 1
    PARTIAL = 2
    OVERRUN = 3
    REFUSED = 4


_COUNT_BITS = 16
_LEAST_LOGITS = 16


def _describe(count: int, format: ActivationFormat) -> int:
    return count | format.bits << 24 | format.signed << 31


class NetworkRegisters(wiring.Component):
    """A network that a processor writes images to and reads results from, by registers.

    =========  ====  ========================================================================
    register         value
    =========  ====  ========================================================================
    ID         r     ``identity``
    INPUT      r     0 to 23: values of an image; 24 to 30: bits of a value; 31: signed
    OUTPUT     r     0 to 23: logits; 24 to 30: bits of a logit; 31: signed
    CONTROL    rw    0: whether ``irq`` follows ``DONE``
    STATUS     rw    0 ``DONE``: a result waits to be read. 1 ``BUSY``: an image is on its
                     way. 2 ``PARTIAL``: an image is partly written. 3 ``OVERRUN``: a word
                     was written without room. 4 ``REFUSED``: ``refused`` was 1
    DATA       w     the image's next word, see :class:`ImageQueue`
    ROOM       r     words that ``DATA`` takes now without an overrun
    CLASS      r     class of the result; 0 without one
    COUNT      r     0 to 15: results since reset; 16 to 31: images; both wrap
    CYCLES     r     cycles in which an image was on its way, since reset; wraps
    logits     r     one each, sign-extended; 0 without a result
    =========  ====  ========================================================================

    Writing a 1 to a bit of ``STATUS`` clears it. For ``DONE`` that makes place for the next
    result, which waits until then and loses nothing; for ``PARTIAL`` it forgets the words of the
    image, so that the next word begins one. A word without room is lost, and so is the image that
    it belongs to: its other words are forgotten, and ``DATA`` takes none until ``OVERRUN`` is
    cleared. An image enters the network when it is complete, so the network is between two images
    whatever the processor does. Reading changes nothing. What is not in the table reads as 0, and
    writing there does nothing.

    Cost, with :class:`WishboneRegisters`, around the network of ``digits``: 264 LUT4, 132
    flip-flops and 3 block RAMs on iCE40; 344, 164 and none on ECP5, whose small memories are LUTs
    (``python -m benchmarks components``). Latency: 2 cycles from the image's last word to the
    network's first value, 1 from the last logit to ``DONE``. A result is read while the network
    is at work on the next images.

    Parameters
    ----------
    network : Network
        Becomes a part of this component.
    identity : int
        What ``ID`` reads, 0 to 2**32 - 1: by convention the first 32 bits of the model file's
        SHA-256, ``int(modelfile.sha256(name)[:8], 16)``.

    Members
    -------
    bus : In(CsrSignature)
        Words of 32 bits; ``addr`` is a :class:`Register`, or ``logits`` and the number of one.
    refused : In(1)
        The bus has refused a write: sets ``REFUSED``.
    irq : Out(1)
        Interrupt, as a level: ``DONE``, if enabled.

    Raises
    ------
    TypeError, ValueError
        If ``identity`` is no such integer, the logits have more than 32 bits, or a layer takes its
        weights from outside.
    """

    bus: Any
    refused: Signal
    irq: Signal

    def __init__(self, network: Network, *, identity: int = 0) -> None:
        require_own_weights(network)
        self.network = network
        self.identity = _integer(identity, "identity", 0, (1 << 32) - 1)
        self.classes = network.model.output.size
        _integer(network.argmax.width, "bits of a logit", 1, 32)
        self.logits = max(_LEAST_LOGITS, 1 << ceil_log2(self.classes))
        """Address of the first logit, in words."""
        self.queue = ImageQueue(network.model.input.format, network.model.input.size)
        super().__init__({
            "bus": In(CsrSignature(ceil_log2(2 * self.logits), 32)),
            "refused": In(1),
            "irq": Out(1),
        })

    def c_header(self, prefix: str = "FLIGHTRTL") -> str:
        """The map as a C header: offsets in bytes, bits of ``STATUS``, sizes."""
        constants = {
            **{register.name: 4 * register for register in Register}, "LOGITS": 4 * self.logits,
            **{f"STATUS_{bit.name}": 1 << bit for bit in StatusBit},
            "IDENTITY": self.identity, "IMAGE_VALUES": self.queue.size,
            "IMAGE_WORDS": self.queue.words, "VALUES_PER_WORD": self.queue.per_word,
            "CLASSES": self.classes}
        lines = [f"#define {prefix}_{name} {value:#x}u" for name, value in constants.items()]
        guard = f"{prefix}_REGISTERS_H"
        return "\n".join([f"#ifndef {guard}", f"#define {guard}", *lines, "#endif", ""])

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.network = network = self.network
        m.submodules.queue = queue = self.queue
        wiring.connect(m, queue.o, network.i)

        bus = self.bus
        is_logit = bus.addr[-1]
        writes = {register: bus.w_stb & (bus.addr == register) for register in (
            Register.CONTROL, Register.STATUS, Register.DATA)}
        clears = Signal(len(StatusBit))
        with m.If(writes[Register.STATUS]):
            m.d.comb += clears.eq(bus.w_data)

        enabled, overrun, refused = Signal(), Signal(), Signal()
        with m.If(writes[Register.CONTROL]):
            m.d.sync += enabled.eq(bus.w_data[0])
        m.d.comb += [
            queue.i.valid.eq(writes[Register.DATA]),
            queue.i.payload.eq(bus.w_data),
            queue.drop.eq(clears[StatusBit.PARTIAL] | overrun),
        ]
        m.d.sync += [
            overrun.eq((overrun & ~clears[StatusBit.OVERRUN])
                       | (queue.i.valid & ~queue.i.ready)),
            refused.eq((refused & ~clears[StatusBit.REFUSED]) | self.refused),
        ]

        done, winner, logit = self._result(m, clears[StatusBit.DONE])
        images, results = Signal(_COUNT_BITS), Signal(_COUNT_BITS)
        with m.If(queue.complete):
            m.d.sync += images.eq(images + 1)
        last = network.o.valid & network.o.ready & network.o.payload.last
        with m.If(last):
            m.d.sync += results.eq(results + 1)
        busy, cycles = Signal(), Signal(32)
        m.d.comb += [busy.eq(images != results), self.irq.eq(done & enabled)]
        with m.If(busy):
            m.d.sync += cycles.eq(cycles + 1)

        model = network.model
        values: dict[Register, int | Value] = {
            Register.ID: self.identity,
            Register.INPUT: _describe(model.input.size, model.input.format),
            Register.OUTPUT: _describe(self.classes, model.output.format),
            Register.CONTROL: enabled,
            Register.STATUS: Cat(done, busy, queue.partial, overrun, refused),
            Register.ROOM: queue.room,
            Register.CLASS: Mux(done, winner, 0),
            Register.COUNT: Cat(results, images),
            Register.CYCLES: cycles,
        }
        chosen, of_logits = Signal(32), Signal()
        m.d.sync += [chosen.eq(0), of_logits.eq(bus.r_stb & is_logit & done)]
        with m.If(bus.r_stb & ~is_logit):
            with m.Switch(bus.addr[:-1]):
                for register, value in values.items():
                    with m.Case(register):
                        m.d.sync += chosen.eq(value)
        m.d.comb += bus.r_data.eq(Mux(of_logits, logit, chosen))
        return m

    def _result(self, m: Module, release: Value) -> tuple[Signal, Signal, Value]:
        """Keeps an image's result: whether there is one, its class, and the logit read last."""
        result = self.network.o
        done = Signal()
        winner = Signal.like(Value.cast(result.payload.winner), reset_less=True)
        # As deep as there are addresses: nobody writes behind the last logit, so 0 is read there.
        # What is read while logits come in is not looked at.
        m.submodules.logits = store = DualPortRam(self.network.argmax.width, self.logits)
        write, read = store.write, store.read
        number = Signal(range(self.classes))
        m.d.comb += [
            result.ready.eq(~done),
            write.en.eq(result.valid & ~done),
            write.addr.eq(number),
            write.data.eq(result.payload.logit),
            read.addr.eq(self.bus.addr[:-1]),
        ]
        with m.If(write.en):
            m.d.sync += number.eq(number + 1)
            with m.If(result.payload.last):
                m.d.sync += [number.eq(0), done.eq(1), winner.eq(result.payload.winner)]
        with m.If(release & done):
            m.d.sync += done.eq(0)
        return done, winner, read.data.as_signed()

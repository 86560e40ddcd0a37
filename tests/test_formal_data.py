# amaranth: UnusedElaboratable=no
"""Proofs that components lose, repeat and change nothing, and compute what they say.

By induction (for ever, for all inputs, with any stalls): the stream buffer, the memory that
streams out, the requantizer and the winner. Bounded: the queue and the poolings.
"""

import pytest
from amaranth import Array, Cat, Const, Elaboratable, Module, Mux, Signal, Value, signed
from amaranth.hdl import Assert, Assume

from flightrtl.formats import ActivationFormat, signed_bits
from flightrtl.gateware import (
    Argmax,
    MaxPooling,
    Requantizer,
    StreamBuffer,
    StreamQueue,
    SumPooling,
    pool,
)
from flightrtl.gateware.fold import WindowFold
from flightrtl.gateware.weights import RomStream
from tests.formal import (
    AnyConst,
    AnySeq,
    Failed,
    Spec,
    bound,
    free_inputs,
    full,
    internal,
    nested,
    planted,
    prove,
)


class BufferSpec(Spec):
    """A payload, any one, comes out once, with as many others before it as went in before it."""

    def says(self, m, dut):
        into, out = dut.i.valid & dut.i.ready, dut.o.valid & dut.o.ready
        inside = Signal(2)      # payloads in the buffer
        ahead = Signal(2)       # of these, before the watched one
        watching = Signal()
        value = Signal.like(dut.i.payload)
        m.d.sync += inside.eq(inside + into - out)
        with m.If(watching & out):
            m.d.sync += [ahead.eq(ahead - 1), watching.eq(ahead != 0)]
        with m.Elif(~watching & into & AnySeq(1)):
            m.d.sync += [watching.eq(1), value.eq(dut.i.payload), ahead.eq(inside - out)]
        full = internal(self, "dut.full", 1)
        spare = internal(self, "dut.spare", len(dut.i.payload))
        m.d.comb += [
            Assert(inside == dut.o.valid + full, "the buffer holds more or less than went in"),
            Assert(dut.o.valid | ~full, "the second entry is used before the first one"),
            Assert(~(watching & (ahead == 0)) | (dut.o.payload == value), "a payload changed"),
            Assert(~(watching & (ahead == 1)) | (spare == value), "a payload is not where it is"),
            Assert(~watching | (ahead < inside), "a payload is lost"),
        ]


def test_buffer_neither_loses_nor_repeats():
    """By induction."""
    prove(BufferSpec(StreamBuffer(8)), depth=2)


@pytest.mark.parametrize(("old", "new"), [
    ("with m.If(~full):", "with m.If(full):"),                          # a payload is lost
    ("full.eq(self.fills)", "full.eq(full)"),                           # and another way
    ("full.eq(self.fills)", "full.eq(self.fills | (full & ~self.i.valid))"),     # one comes twice
])
def test_buffer_neither_loses_nor_repeats_twin(old, new, tmp_path):
    with pytest.raises(Failed, match="payload|more or less"):
        prove(BufferSpec(planted(StreamBuffer, old, new)(8)), mode="bmc", depth=7, folder=tmp_path)


class QueueSpec(Spec):
    """A transfer, any one, comes out once, in order and in time, and all the room is used."""

    def __init__(self, dut):
        super().__init__(dut)
        self.latency = 2 + dut.register

    def says(self, m, dut):
        into, out = dut.i.valid & dut.i.ready, dut.o.valid & dut.o.ready
        inside = Signal(range(dut.depth + 2))
        ahead = Signal.like(inside)     # of these, before the watched one
        watching = Signal()
        value = Signal.like(dut.i.payload)
        waited = Signal(range(self.latency + 1))
        m.d.sync += [inside.eq(inside + into - out), waited.eq(0)]
        with m.If(~dut.o.valid & (inside != 0)):
            m.d.sync += waited.eq(waited + (waited != self.latency))
        with m.If(watching & out):
            m.d.sync += [ahead.eq(ahead - 1), watching.eq(ahead != 0)]
        with m.Elif(~watching & into & AnySeq(1)):
            m.d.sync += [watching.eq(1), value.eq(dut.i.payload), ahead.eq(inside - out)]
        m.d.comb += [
            Assert(~dut.o.valid | (inside != 0), "a transfer comes that nobody sent"),
            Assert(inside <= dut.depth, "more transfers are held than there is room"),
            Assert(dut.i.ready | (inside == dut.depth), "there is room, and none is taken"),
            Assert(dut.o.valid | (inside == 0) | (waited < self.latency - 1),
                   "a transfer comes late"),
            Assert(~(watching & (ahead == 0) & dut.o.valid) | (dut.o.payload == value),
                   "a transfer is lost, repeated or changed"),
        ]


QUEUES = {"three words": {"depth": 4}, "two words": {"depth": 3},
          "with register": {"depth": 5, "register": True}}


@pytest.mark.parametrize("name", QUEUES if full() else ["three words", "with register"])
def test_queue_neither_loses_nor_repeats(name):
    """Bounded: full, empty again, and round the memory."""
    prove(QueueSpec(StreamQueue(2, **QUEUES[name])), mode="bmc", depth=bound(9, 12))


@pytest.mark.parametrize(("old", "new"), [
    ("full.eq(next_place == front)", "full.eq(0)"),
    ("with m.Elif(fetch & ~put):", "with m.Elif(fetch):"),
    ("fetch.eq(some & read.en)", "fetch.eq(some & moves)"),
    ("with m.If(address == self.words - 1):", "with m.If(address == self.words - 2):"),
])
def test_queue_neither_loses_nor_repeats_twin(old, new, tmp_path):
    with pytest.raises(Failed, match="transfer|room"):
        prove(QueueSpec(planted(StreamQueue, old, new)(2, depth=4)), mode="bmc", depth=9,
              folder=tmp_path)


class RomSpec(Spec):
    """Word after word, without end."""

    def says(self, m, dut):
        count, words = len(dut.words), Array(Const(word, 4) for word in dut.words)
        number = Signal(range(count))
        following = Mux(number == count - 1, 0, number + 1)
        with m.If(dut.o.valid & dut.o.ready):
            m.d.sync += number.eq(following)
        m.d.comb += Assert(~dut.o.valid | (dut.o.payload == words[number]), "a wrong word")
        # What the induction needs: where the address stands.
        address = internal(self, "dut.address", range(count))
        fetched = internal(self, "dut.fetched", 1)
        m.d.comb += Assert((number < count) & (address == Mux(fetched, following, number)),
                           "a wrong address")


@pytest.mark.parametrize("count", [4, 5])
def test_rom_streams_its_words_in_order(count):
    """By induction."""
    prove(RomSpec(RomStream(4, [3, 9, 1, 12, 7][:count])), depth=2)


def test_rom_streams_its_words_in_order_twin(tmp_path):
    bad = planted(RomStream, "with m.If(address == len(self.words) - 1):",
                  "with m.If(address == len(self.words) - 2):")
    with pytest.raises(Failed, match="a wrong"):
        prove(RomSpec(bad(4, [3, 9, 1, 12, 7])), mode="bmc", depth=9, folder=tmp_path)


class RequantizerSpec(Elaboratable):
    """Each activation is the clamped, shifted sum of its accumulator and its filter's bias."""

    def __init__(self, dut, low, high):
        self.dut, self.low, self.high = dut, low, high

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.dut
        free_inputs(m, dut)
        m.d.comb += Assume((dut.i.payload >= self.low) & (dut.i.payload <= self.high), "range")
        filters = len(dut.bias)
        width = dut.total_width + 1
        biases = Array(Const(bias, signed(width)) for bias in dut.bias)
        shifts = Array(Const(shift, 6) for shift in dut.shift)
        number = Signal(range(filters))
        following = Mux(number == filters - 1, 0, number + 1)
        with m.If(dut.i.valid & dut.i.ready):
            m.d.sync += number.eq(following)

        # The accumulators on their way, and their filters, as numbers of unlimited size.
        advance = ~dut.o.valid | dut.o.ready
        accumulators = [Signal(signed(width), name=f"accumulator_{n}") for n in range(3)]
        numbers = [Signal(range(filters), name=f"number_{n}") for n in range(3)]
        with m.If(advance):
            m.d.sync += [accumulators[0].eq(dut.i.payload), numbers[0].eq(number)]
            for n in range(2):
                m.d.sync += [accumulators[n + 1].eq(accumulators[n]),
                             numbers[n + 1].eq(numbers[n])]

        def shifted(n):
            return (accumulators[n] + biases[numbers[n]]) >> shifts[numbers[n]]

        low, high = dut.output.min, dut.output.max
        clamped = Mux(shifted(2) < low, low, Mux(shifted(2) > high, high, shifted(2)))
        m.d.comb += Assert(~dut.o.valid | (dut.o.payload == clamped), "a wrong activation")

        # What the induction needs: what the registers between hold, and where the constants are.
        least, total_width = min(dut.shift), dut.total_width
        valid = internal(self, "dut.valid", 3)
        total = internal(self, "dut.total", signed(total_width))
        inner = internal(self, "dut.shifted", signed(max(1, total_width - least)))
        address = internal(self, "dut.rom.address", range(filters))
        fetched = internal(self, "dut.rom.fetched", 1)
        bias_bits = signed_bits(min(dut.bias), max(dut.bias))
        shift_bits = (max(dut.shift) - least).bit_length()
        constants = internal(self, "dut.rom.o__payload", bias_bits + shift_bits)
        m.d.comb += [
            Assert(Cat(*(count < filters for count in (number, *numbers))).all(), "filters"),
            Assert(address == Mux(fetched, following, number), "a wrong address"),
            Assert(~fetched | ((constants[:bias_bits].as_signed() == biases[number])
                               & (constants[bias_bits:] + least == shifts[number])),
                   "wrong constants"),
            Assert(~valid[0] | (total == accumulators[0] + biases[numbers[0]]), "a wrong sum"),
            Assert(~valid[1] | (inner == shifted(1)), "a wrong shift"),
        ]
        if shift_bits:
            kinds = internal(self, "dut.shifts", shift_bits)
            m.d.comb += Assert(~valid[0] | (kinds + least == shifts[numbers[0]]), "a shift")
        m.d.comb += [Assert(~valid[n] | ((accumulators[n] >= self.low)
                                         & (accumulators[n] <= self.high)), "range")
                     for n in range(3)]
        return m


SMALL = {"low": -60, "high": 29, "bias": [3, -8, 0], "shift": [2, 0, 3],
         "output": ActivationFormat(3)}


# As in a bundled network: 24 filters, 20 bits in, 8 out.
REAL = {"low": -400_000, "high": 300_000, "output": ActivationFormat(8),
        "bias": [(n * 7919) % 20_001 - 10_000 for n in range(24)],
        "shift": [9 + n * 5 % 4 for n in range(24)]}
SIGNED = {"low": -5_000, "high": 8_000, "bias": [17, -900, 3], "shift": [4, 4, 4],
          "output": ActivationFormat(6, True)}


@pytest.mark.parametrize("parameters", [SMALL, REAL, SIGNED], ids=["small", "real", "signed"])
def test_requantizer_is_its_arithmetic(parameters):
    """For all accumulators in range and every filter, by induction."""
    prove(RequantizerSpec(Requantizer(**parameters), parameters["low"], parameters["high"]),
          depth=2)


@pytest.mark.parametrize(("old", "new"), [
    ("shifted[output.bits - output.signed:]", "shifted[output.bits + 1 - output.signed:]"),
    ("step.eq(Mux(shift[bit], value >> (1 << bit), value))",
     "step.eq(Mux(shift[bit], value >> (1 + bit), value) if bit else value)"),
    ("signed_bits(low + min(self.bias), high + max(self.bias))", "signed_bits(low, high)"),
])
def test_requantizer_is_its_arithmetic_twin(old, new, tmp_path):
    with pytest.raises(Failed, match="a wrong|a shift"):
        prove(RequantizerSpec(planted(Requantizer, old, new)(**SMALL), -60, 29), mode="bmc",
              depth=8, folder=tmp_path)


class ArgmaxSpec(Spec):
    """The winner is the first one of the largest logits.

    With ``best`` the component's register: any one logit, the watched one, is at most ``best``,
    equal to it if it is the winner, and not before the winner if it is equal to it. Being true of
    any one it is true of all, and so says what the winner is.
    """

    def says(self, m, dut):
        count, shape = dut.count, signed(dut.width)
        watched = AnyConst(range(count))
        logit, before = Signal(shape), Signal(shape)
        number = Signal(range(count))
        with m.If(dut.i.valid & dut.i.ready):
            m.d.sync += [before.eq(dut.i.payload),
                         number.eq(Mux(number == count - 1, 0, number + 1))]
            with m.If(number == watched):
                m.d.sync += logit.eq(dut.i.payload)
        here = Mux(number == 0, count, number)      # logits of the image that are in
        winner, best = dut.o.payload.winner, internal(self, "dut.best", shape)
        begun = dut.o.valid | (number != 0)
        judged = begun & (watched < here)
        m.d.comb += [
            Assume(watched < count, "watched"),
            Assert(number < count, "number"),
            Assert(internal(self, "dut.index", len(winner)) == number, "a wrong index"),
            Assert(~dut.o.valid | (dut.o.payload.last == (number == 0)), "a wrong last"),
            Assert(~dut.o.valid | (dut.o.payload.logit == before), "a wrong logit"),
            Assert(~begun | (winner < here), "a winner that is not there"),
            Assert(~judged | (best >= logit), "a wrong best"),
            Assert(~judged | (winner != watched) | (best == logit), "a wrong winner"),
            Assert(~judged | (best != logit) | (winner <= watched), "a wrong winner"),
        ]


@pytest.mark.parametrize(("count", "width"), [(10, 16), (3, 2), (2, 1)])
def test_winner_is_the_first_of_the_largest(count, width):
    """For all logits, by induction."""
    prove(ArgmaxSpec(Argmax(count=count, width=width)), depth=2)


@pytest.mark.parametrize(("old", "new"), [
    ("(self.i.payload > best)", "(self.i.payload >= best)"),
    ("better.eq((index == 0) | (self.i.payload > best))", "better.eq(self.i.payload > best)"),
])
def test_winner_is_the_first_of_the_largest_twin(old, new, tmp_path):
    with pytest.raises(Failed, match="a wrong"):
        prove(ArgmaxSpec(planted(Argmax, old, new)(count=3, width=2)), mode="bmc", depth=7,
              folder=tmp_path)


class PoolSpec(Elaboratable):
    """The result of a window, any one, comes in its place and is that of the window's values."""

    def __init__(self, dut, empty, images=2):
        self.dut, self.empty, self.images = dut, empty, images

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.dut
        free_inputs(m, dut)
        height, width, channels = dut.shape
        rows, columns, _ = dut.output_shape
        limits = [channels, columns, rows, self.images + 1]
        watched = [AnyConst(range(limit)) for limit in limits]
        m.d.comb += Assume(Cat(*(choice < limit for choice, limit
                                 in zip(watched, limits, strict=True))).all(), "watched")
        into, out = dut.i.valid & dut.i.ready, dut.o.valid & dut.o.ready

        channel, x, y, image = nested(m, into, [channels, width, height, self.images + 1])
        first = [watched[2] * dut.stride[0], watched[1] * dut.stride[1]]
        inside = ((channel == watched[0]) & (image == watched[3])
                  & (y >= first[0]) & (y < first[0] + dut.kernel[0])
                  & (x >= first[1]) & (x < first[1] + dut.kernel[1]))
        expected = Signal(signed(16), init=self.empty)
        values = Signal(range(dut.kernel[0] * dut.kernel[1] + 1))
        value = Value.cast(dut.i.payload)
        combined = (expected + value if hasattr(dut, "shift")
                    else Mux(expected > value, expected, value))
        with m.If(into & inside):
            m.d.sync += [expected.eq(combined), values.eq(values + 1)]

        position = nested(m, out, limits)
        here = Cat(*(count == choice for count, choice
                     in zip(position, watched, strict=True))).all()
        result = expected
        if hasattr(dut, "shift"):
            mean = (expected + dut.bias) >> dut.shift
            result = Mux(mean > dut.output.max, dut.output.max,
                         Mux(mean < dut.output.min, dut.output.min, mean))
        with m.If(dut.o.valid & here & (watched[3] < self.images)):
            m.d.comb += [Assert(values == dut.kernel[0] * dut.kernel[1], "a window is not whole"),
                         Assert(dut.o.payload == result, "a wrong result")]
        return m


TWO_BITS = ActivationFormat(2)
POOLS = {
    "max": (MaxPooling, {"shape": (2, 4, 1), "kernel": (2, 2), "stride": (2, 2)}),
    "max, channels": (MaxPooling, {"shape": (2, 2, 2), "kernel": (2, 1), "stride": (2, 1)}),
    "max, overlapping": (MaxPooling, {"shape": (2, 3, 2), "kernel": (2, 2), "stride": (1, 1)}),
    "max, with rest": (MaxPooling, {"shape": (2, 3, 2), "kernel": (1, 2), "stride": (2, 2)}),
    "sum": (SumPooling, {"shape": (2, 2, 2), "kernel": (2, 2), "stride": (1, 1), "bias": 2,
                         "shift": 1, "output": TWO_BITS}),
}


def pool_spec(kind, parameters):
    return PoolSpec(kind(**parameters, format=TWO_BITS), 0)


def cycles(parameters, more=0):
    """Cycles that an image and its last result take without a stall, and a few for stalls."""
    height, width, channels = parameters["shape"]
    return height * width * channels + 5 + more


@pytest.mark.parametrize("name", POOLS if full() else ["max", "max, channels", "sum"])
def test_pooling_is_its_arithmetic(name):
    """Bounded: one image and some stalls; the next one too, and more kinds, in the long run."""
    kind, parameters = POOLS[name]
    prove(pool_spec(kind, parameters), mode="bmc", timeout=3600,
          depth=bound(cycles(parameters), cycles(parameters, 4)))


@pytest.mark.parametrize(("name", "old", "new"), [
    ("max", "with m.If(again):", "with m.If(again & ends):"),
    ("max", "m.d.sync += base.eq(address + 1)", "m.d.sync += base.eq(address)"),
    ("max, overlapping", "shifted = before[n - 1] if n else self.initial",
     "shifted = before[n] if n else self.initial"),
    ("sum", "Mux(starts, shifted, before[n])", "Mux(starts, 0, before[n])"),
])
def test_pooling_is_its_arithmetic_twin(monkeypatch, name, old, new, tmp_path):
    monkeypatch.setattr(pool, "WindowFold", planted(WindowFold, old, new))
    kind, parameters = POOLS[name]
    with pytest.raises(Failed, match="a window is not whole|a wrong result"):
        prove(pool_spec(kind, parameters), mode="bmc", depth=cycles(parameters, 2),
              folder=tmp_path)

# amaranth: UnusedElaboratable=no
"""Weights from a serial flash: a simulated flash, alone and before an engine."""

import numpy as np
import pytest

from flightrtl import golden
from flightrtl.formats import ActivationFormat
from flightrtl.gateware import Flash, FlashReader, Framed, FramedLayer, FrameEngine
from flightrtl.model import TensorType
from tests.models import random_layer, random_map
from tests.streams import run_streams


def flash(reader, contents, delay=0):
    """A testbench: a flash that answers READ, once it was woken up, ``delay`` cycles late."""
    state = {"commands": []}

    async def bench(ctx):
        clock, received, out, awake = 0, [], [], False
        late = [0] * delay
        place = 0
        async for _, _, selected, now, data in ctx.tick().sample(
                reader.flash.select, reader.flash.clock, reader.flash.data):
            if not selected:
                if received:
                    assert not now, "the clock rests low"
                received, out = [], []
            elif now and not clock:
                received.append(data)
                if len(received) == 8:
                    command = int("".join(map(str, received)), 2)
                    state["commands"].append(command)
                    assert awake or command == 0xAB
                    awake = True
                if len(received) == 32:
                    assert state["commands"][-1] == 0x03
                    place = int("".join(map(str, received[8:])), 2)
            elif clock and not now and len(received) >= 32:
                if not out:
                    out = [int(bit) for bit in f"{contents[place]:08b}"]
                    place += 1
                late.append(out.pop(0))
            clock = now
            if len(late) > 1:
                late.pop(0)
            ctx.set(reader.flash.q, late[0] if late else 0)
    return bench, state


@pytest.mark.parametrize(("width", "half", "address"), [
    (8, 1, 0), (5, 2, 0x12345), (48, 1, 7), (19, 3, 0x200)])
@pytest.mark.parametrize("stall", [0.0, 0.97])
def test_words_come_round_and_round(width, half, address, stall):
    rng = np.random.default_rng(width)
    words = [int(word) for word in rng.integers(0, 1 << width, 5)]
    reader = FlashReader(width, 5, Flash(address, half, rest=9, wake=7))
    contents = bytes(address) + reader.image(words) + b"\xA5" * 8
    bench, state = flash(reader, contents)
    run = run_streams(reader, {}, {"o": 12}, beside=[bench], stall=stall, idle=0)
    assert run["o"] == (words * 3)[:12]
    assert state["commands"] == [0xAB, 0x03, 0x03, 0x03]
    if not stall:
        assert np.diff(run.cycles["o"])[:4].tolist() == [
            reader.bytes * 16 * half] * 4
        assert run.cycles["o"][5] - run.cycles["o"][0] == reader.source.cycles(5, reader.bytes)


def test_engine_with_weights_in_flash():
    """Two images: whatever the flash's pace, the results are the golden model's."""
    rng = np.random.default_rng(0)
    source = TensorType((3, 4, 2), ActivationFormat(4))
    layer = random_layer(rng, "convolution", source, random_map(rng, source, 2), kernel=(2, 2),
                         stride=(1, 1), padding=(1, 0, 0, 1), k=[1, 2, 1], exponent_bits=3,
                         output=ActivationFormat(5))
    dut = FrameEngine(FramedLayer(layer, source, Framed(2, 2, flash=Flash(0x100, rest=5))))
    bench, _ = flash(dut, bytes(0x100) + dut.flash_contents)
    maps = random_map(rng, source, 2)
    expected = golden.apply(layer, maps)
    run = run_streams(dut, {"i": maps.ravel().tolist()}, {"o": expected.size}, beside=[bench],
                      idle=0, stall=0.2)
    assert run["o"] == expected.ravel().tolist()


@pytest.mark.parametrize(("parameters", "message"), [
    ({"count": 0}, "count must be 1 to"),
    ({"count": 3, "source": Flash(0xFFFFFA)}, "3 words of 3 bytes at address 0xfffffa do not end"),
])
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        FlashReader(20, **parameters)


def test_image_has_every_word():
    reader = FlashReader(12, 2)
    assert reader.image([0x123, 0xABC]) == b"\x23\x01\xbc\x0a"
    with pytest.raises(ValueError, match="there must be 2 words, not 1"):
        reader.image([1])

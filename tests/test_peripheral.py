# amaranth: UnusedElaboratable=no
"""A network behind registers: what a processor does, over every bus, against the golden model."""

import re
from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from flightrtl import boards, golden, modelfile, samples
from flightrtl.gateware import CsrNetwork, Network, Register, StatusBit, WishboneNetwork
from flightrtl.planner import plan
from tests.buses import Processor
from tests.models import random_images, random_model
from tests.streams import PERIOD

BUSES: dict[str, Any] = {
    "wishbone": WishboneNetwork,
    "csr-8": CsrNetwork,
    "csr-16": lambda network, **more: CsrNetwork(network, data_width=16, **more),
    "csr-32": lambda network, **more: CsrNetwork(network, data_width=32, **more),
}
IMAGES = samples.load("digits")[0][::40].astype(np.int64)


def digits():
    model = modelfile.load("digits")
    return Network(model, plan(model, boards.load("ecp5")).foldings)


def small(seed, count):
    """A network at random, and images."""
    rng = np.random.default_rng(seed)
    model = random_model(rng, input_shape=tuple(rng.integers(1, [5, 5, 4]).tolist()))
    network = Network(model, plan(model, boards.load("ecp5")).foldings, memory_register=True)
    return model, network, random_images(rng, model, count)


def run(dut, bench, *, cycles=20_000):
    async def watchdog(ctx):
        await ctx.tick().repeat(cycles)
        raise AssertionError(f"not done after {cycles} cycles")

    simulator = Simulator(dut)
    simulator.add_clock(PERIOD)
    simulator.add_testbench(bench)
    simulator.add_testbench(watchdog, background=True)
    simulator.run()


def expected(model, images):
    logits = golden.run(model, images)
    return list(zip(logits.tolist(), logits.argmax(axis=1).tolist(), strict=True))


@pytest.mark.parametrize(("bus", "pause"), [("wishbone", 0.5), ("csr-8", 0.0)])
def test_images_of_digits(bus, pause):
    """One at a time, what the registers tell around it, and an interrupt for each."""
    network = digits()
    dut = BUSES[bus](network, identity=0xDEADBEEF)
    processor = Processor(dut, seed=3, pause=pause)
    images = IMAGES[:2]

    async def bench(ctx):
        assert await processor.read(ctx, Register.ID) == 0xDEADBEEF
        assert await processor.read(ctx, Register.INPUT) == 64 | 5 << 24
        assert await processor.read(ctx, Register.OUTPUT) == 10 | 12 << 24 | 1 << 31
        assert await processor.read(ctx, Register.CYCLES) == 0
        assert await processor.status(ctx) == set()
        await processor.write(ctx, Register.CONTROL, 1)
        assert await processor.read(ctx, Register.CONTROL) == 1
        for number, (image, result) in enumerate(zip(
                images, expected(network.model, images), strict=True)):
            words = processor.words(image)
            await processor.send(ctx, words[:-1])
            assert await processor.status(ctx) == {StatusBit.PARTIAL}
            await processor.send(ctx, words[-1:])
            assert await processor.status(ctx) == {StatusBit.BUSY}
            assert await processor.read(ctx, Register.CLASS) == 0
            assert await processor.read(ctx, processor.registers.logits + 3) == 0
            assert await processor.read(ctx, Register.COUNT) == number | number + 1 << 16
            before = await processor.read(ctx, Register.CYCLES)
            await ctx.tick().until(dut.irq)
            assert await processor.status(ctx) == {StatusBit.DONE}
            after = await processor.read(ctx, Register.CYCLES)
            assert before < after == await processor.read(ctx, Register.CYCLES)
            assert await processor.read(ctx, Register.COUNT) == number + 1 | number + 1 << 16
            assert await processor.result(ctx) == result
            assert not ctx.get(dut.irq)
            # Nothing of it can be read any more, and nothing is behind it.
            assert await processor.read(ctx, Register.CLASS) == 0
            assert await processor.read(ctx, processor.registers.logits) == 0
        assert await processor.read(ctx, processor.registers.logits + 15) == 0
        assert await processor.read(ctx, Register.CYCLES + 1) == 0

    run(dut, bench)


@pytest.mark.parametrize("bus", ["wishbone", "csr-8"])
def test_results_wait_and_images_queue(bus):
    """Images are written as far as there is room; results come in order whenever they are read."""
    model, network, images = small(4, 9)
    dut = BUSES[bus](network)
    processor = Processor(dut, seed=1, pause=0.1)
    results = expected(model, images)

    async def bench(ctx):
        todo = [word for image in images for word in processor.words(image)]
        for result in results:
            # As much as fits now, even if that ends within an image.
            for _ in range(await processor.read(ctx, Register.ROOM)):
                if todo:
                    await processor.write(ctx, Register.DATA, todo.pop(0))
            await ctx.tick().repeat(100)
            assert not ctx.get(dut.irq)     # it is not enabled
            assert await processor.result(ctx) == result
        assert not todo
        assert await processor.status(ctx) == set()

    run(dut, bench, cycles=60_000)


@pytest.mark.parametrize("bus", ["wishbone", "csr-8"])
def test_a_word_too_many_is_flagged_and_half_an_image_forgotten(bus):
    model, network, images = small(4, 4)
    dut = BUSES[bus](network)
    processor = Processor(dut, seed=2, pause=0.3)
    words = [processor.words(image) for image in images]

    async def bench(ctx):
        await processor.send(ctx, words[0])
        await processor.send(ctx, words[1][:-1])
        assert StatusBit.PARTIAL in await processor.status(ctx)
        await processor.clear(ctx, StatusBit.PARTIAL)
        assert StatusBit.PARTIAL not in await processor.status(ctx)
        await processor.send(ctx, words[1])
        # The network stops at the first result, which nobody reads, and then the queue is full.
        accepted = 2
        while StatusBit.OVERRUN not in await processor.status(ctx):
            for word in words[2]:
                await processor.write(ctx, Register.DATA, word)
            accepted = await processor.read(ctx, Register.COUNT) >> 16
        assert [await processor.result(ctx) for _ in range(accepted)] == [
            *expected(model, images[:2]), *expected(model, images[2:3]) * (accepted - 2)]
        # Not a word is taken until software has seen the flag.
        for word in words[3] * 2:
            await processor.write(ctx, Register.DATA, word)
        assert await processor.status(ctx) == {StatusBit.OVERRUN}
        await processor.clear(ctx, StatusBit.OVERRUN)
        assert await processor.status(ctx) == set()
        await processor.send(ctx, words[3])
        assert await processor.result(ctx) == expected(model, images[3:])[0]
        assert await processor.status(ctx) == set()

    run(dut, bench)


def test_half_a_write_is_flagged():
    """It changes nothing: an image with one in its middle is as it was."""
    model, network, images = small(5, 1)
    dut = WishboneNetwork(network)
    processor = Processor(dut)

    async def bench(ctx):
        for word in processor.words(images[0]):
            await processor.bus.access(ctx, Register.DATA, data=~word & 0xFFFFFFFF, sel=0b0111)
            assert StatusBit.REFUSED in await processor.status(ctx)
            await processor.clear(ctx, StatusBit.REFUSED)
            assert StatusBit.REFUSED not in await processor.status(ctx)
            await processor.write(ctx, Register.DATA, word)
        assert await processor.result(ctx) == expected(model, images)[0]

    run(dut, bench)


@pytest.mark.parametrize("seed", range(4))
def test_networks_of_any_shape(seed):
    """Wide and signed values, images that end within a word, all buses."""
    model, network, images = small(seed, 3)
    dut = list(BUSES.values())[seed](network)
    processor = Processor(dut, seed=seed)

    async def bench(ctx):
        for image, result in zip(images, expected(model, images), strict=True):
            await processor.send(ctx, processor.words(image))
            assert await processor.result(ctx) == result

    run(dut, bench)


def test_c_header():
    registers = WishboneNetwork(digits(), identity=0xDEADBEEF).registers
    defined = {name: int(value, 16) for name, value in re.findall(
        r"^#define NET_(\w+) (0x[0-9a-f]+)u$", registers.c_header("NET"), re.MULTILINE)}
    assert defined == {
        "ID": 0, "INPUT": 4, "OUTPUT": 8, "CONTROL": 12, "STATUS": 16, "DATA": 20, "ROOM": 24,
        "CLASS": 28, "COUNT": 32, "CYCLES": 36, "LOGITS": 64, "STATUS_DONE": 1, "STATUS_BUSY": 2,
        "STATUS_PARTIAL": 4, "STATUS_OVERRUN": 8, "STATUS_REFUSED": 16, "IDENTITY": 0xDEADBEEF,
        "IMAGE_VALUES": 64, "IMAGE_WORDS": 16, "VALUES_PER_WORD": 4, "CLASSES": 10}


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match="data_width must be 8, 16 or 32, not 24"):
        CsrNetwork(digits(), data_width=24)
    with pytest.raises(ValueError, match="identity must be"):
        WishboneNetwork(digits(), identity=1 << 32)

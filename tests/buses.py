"""A processor for tests: reads and writes registers over a bus, with pauses between accesses."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from amaranth.lib import wiring

from flightrtl.gateware import CsrNetwork, Register, StatusBit, WishboneNetwork

__all__ = ["Csr", "Processor", "Wishbone"]


class Csr:
    """Accesses to a CSR bus, and a check that it is silent between them."""

    def __init__(self, bus: Any) -> None:
        self.bus = bus
        self.parts = 32 // len(bus.w_data)

    async def read(self, ctx: Any, register: int) -> int:
        """A whole register."""
        value = 0
        for part in range(self.parts):
            ctx.set(self.bus.addr, register * self.parts + part)
            ctx.set(self.bus.r_stb, 1)
            await ctx.tick()
            value |= ctx.get(self.bus.r_data) << part * len(self.bus.w_data)
        ctx.set(self.bus.r_stb, 0)
        await ctx.tick()
        assert ctx.get(self.bus.r_data) == 0
        return value

    async def write(self, ctx: Any, register: int, value: int) -> None:
        """A whole register."""
        for part in range(self.parts):
            ctx.set(self.bus.addr, register * self.parts + part)
            ctx.set(self.bus.w_data, value >> part * len(self.bus.w_data)
                    & (1 << len(self.bus.w_data)) - 1)
            ctx.set(self.bus.w_stb, 1)
            await ctx.tick()
        ctx.set(self.bus.w_stb, 0)


class Wishbone:
    """Accesses to a Wishbone bus; each must be answered in its second cycle."""

    def __init__(self, bus: Any) -> None:
        self.bus = bus

    async def access(self, ctx: Any, register: int, *, data: int | None = None,
                     sel: int = 15) -> int:
        """One access: a write if there is ``data``."""
        bus = self.bus
        ctx.set(bus.adr, register)
        ctx.set(bus.we, data is not None)
        ctx.set(bus.dat_w, data or 0)
        ctx.set(bus.sel, sel)
        ctx.set(bus.cyc, 1)
        ctx.set(bus.stb, 1)
        *_, ack, value = await ctx.tick().sample(bus.ack, bus.dat_r)
        assert not ack
        *_, ack, value = await ctx.tick().sample(bus.ack, bus.dat_r)
        assert ack
        ctx.set(bus.stb, 0)
        ctx.set(bus.cyc, 0)
        return value

    async def read(self, ctx: Any, register: int) -> int:
        """A register."""
        return await self.access(ctx, register, sel=0)

    async def write(self, ctx: Any, register: int, value: int) -> None:
        """A register."""
        await self.access(ctx, register, data=value)


class Processor:
    """What software does with the registers of a network.

    Parameters
    ----------
    dut : CsrNetwork or WishboneNetwork
        The peripheral.
    seed : int
        Of the pauses.
    pause : float
        Chance of a cycle's pause between two accesses.
    """

    def __init__(self, dut: wiring.Component, *, seed: int = 0, pause: float = 0.0) -> None:
        assert isinstance(dut, (CsrNetwork, WishboneNetwork))
        self.bus: Any = Csr(dut.bus) if isinstance(dut, CsrNetwork) else Wishbone(dut.bus)
        self.registers = dut.registers
        self.random = random.Random(seed)
        self.pause = pause

    async def _pause(self, ctx: Any) -> None:
        while self.random.random() < self.pause:
            await ctx.tick()

    async def read(self, ctx: Any, register: int) -> int:
        """A register."""
        await self._pause(ctx)
        return await self.bus.read(ctx, register)

    async def write(self, ctx: Any, register: int, value: int) -> None:
        """A register."""
        await self._pause(ctx)
        await self.bus.write(ctx, register, value)

    async def status(self, ctx: Any) -> set[StatusBit]:
        """The bits that are set."""
        value = await self.read(ctx, Register.STATUS)
        assert value < 1 << len(StatusBit)
        return {bit for bit in StatusBit if value >> bit & 1}

    async def clear(self, ctx: Any, bit: StatusBit) -> None:
        """Clear a bit of the status."""
        await self.write(ctx, Register.STATUS, 1 << bit)

    def words(self, image: Any) -> list[int]:
        """An image as the words to write."""
        queue = self.registers.queue
        bits = queue.value_bits
        flat: list[int] = [int(value) & (1 << bits) - 1 for value in image.ravel()]
        return [sum(value << bits * n for n, value in enumerate(flat[at:at + queue.per_word]))
                for at in range(0, len(flat), queue.per_word)]

    async def send(self, ctx: Any, words: Sequence[int]) -> None:
        """Write words, each when there is room."""
        room = 0
        for word in words:
            while not room:
                room = await self.read(ctx, Register.ROOM)
            await self.write(ctx, Register.DATA, word)
            room -= 1

    async def result(self, ctx: Any) -> tuple[list[int], int]:
        """Wait for a result, read logits and class, and make place for the next one."""
        while StatusBit.DONE not in await self.status(ctx):
            pass
        logits = [await self.read(ctx, self.registers.logits + number)
                  for number in range(self.registers.classes)]
        winner = await self.read(ctx, Register.CLASS)
        await self.clear(ctx, StatusBit.DONE)
        return [logit - (logit >> 31 << 32) for logit in logits], winner

# amaranth: UnusedElaboratable=no
"""Every component against its Python twin: random parameters, values and stalls.

By itself this draws the same few dozen examples in every run. ``--hypothesis-profile=full
--hypothesis-seed=N`` draws many, others for each seed.
"""

import numpy as np
from amaranth import unsigned
from hypothesis import given
from hypothesis import strategies as st

from flightrtl import golden
from flightrtl.formats import ActivationFormat, FixedFormat
from flightrtl.gateware import (
    FilterScheduler,
    MultiplyPE,
    PEArray,
    Requantizer,
    RomStream,
    ShiftPE,
    SlidingWindow,
    StreamBuffer,
    XnorPE,
)
from flightrtl.gateware.argmax import Argmax
from flightrtl.gateware.folding import slot_places
from flightrtl.gateware.pool import MaxPooling, SumPooling
from flightrtl.gateware.uart import MAX_BAUD_ERROR
from tests.strategies import (
    activation_formats,
    engines,
    frames,
    pools,
    seeds,
    stalls,
    term_formats,
    weight_formats,
    windows,
)
from tests.streams import as_map, as_transfers, run_streams
from tests.test_argmax import simulate as simulate_argmax
from tests.test_array import simulate as simulate_array
from tests.test_link import Rig
from tests.test_link import images as link_images
from tests.test_multiply import operands as fixed_operands
from tests.test_pe import operands, transfers
from tests.test_pool import simulate as simulate_pool
from tests.test_uart import bits_of, receive
from tests.test_window import simulate as simulate_window


@given(simd=st.integers(1, 9), activation=activation_formats(), term=term_formats(),
       exact=st.booleans(), seed=seeds(), stall=stalls("i", "o"))
def test_shift_pe(simd, activation, term, exact, seed, stall):
    pe = ShiftPE(simd=simd, activation=activation, term=term, exact=exact)
    activations, codes = operands(np.random.default_rng(seed), pe, 24)
    run = run_streams(pe, {"i": transfers(activations, codes)}, {"o": 24}, seed=seed, stall=stall)
    assert run["o"] == pe.compute(activations, codes).tolist()


@given(simd=st.integers(1, 9), activation=activation_formats(), bits=st.integers(2, 8),
       dsp=st.booleans(), seed=seeds(), stall=stalls("i", "o"))
def test_multiply_pe(simd, activation, bits, dsp, seed, stall):
    pe = MultiplyPE(simd=simd, activation=activation, weight=FixedFormat(bits), dsp=dsp)
    activations, codes = fixed_operands(np.random.default_rng(seed), pe, 24)
    run = run_streams(pe, {"i": transfers(activations, codes)}, {"o": 24}, seed=seed, stall=stall)
    assert run["o"] == pe.compute(activations, codes).tolist()


@given(simd=st.integers(1, 20), activation=st.one_of(st.just(ActivationFormat(1)),
                                                     activation_formats()),
       seed=seeds(), stall=stalls("i", "o"))
def test_xnor_pe(simd, activation, seed, stall):
    pe = XnorPE(simd=simd, activation=activation)
    rng = np.random.default_rng(seed)
    activations = rng.integers(activation.min, activation.max, (24, simd), endpoint=True)
    codes = rng.integers(0, 2, (24, simd))
    run = run_streams(pe, {"i": transfers(activations, codes)}, {"o": 24}, seed=seed, stall=stall)
    assert run["o"] == pe.compute(activations, codes).tolist()


@given(lanes=st.integers(1, 6), simd=st.integers(1, 5), words=st.integers(1, 7),
       width=st.integers(4, 40), activation=activation_formats(), term=weight_formats(),
       pixels=st.integers(1, 3), seed=seeds(), stall=stalls("i", "o"))
def test_array(lanes, simd, words, width, activation, term, pixels, seed, stall):
    array = PEArray(lanes=lanes, simd=simd, width=width, activation=activation, term=term,
                    pixels=pixels)
    simulate_array(array, 5, words, seed=seed, stall=stall)


@given(k=st.lists(st.integers(0, 4), min_size=1, max_size=9), lanes=st.integers(1, 7),
       pixels=st.integers(1, 3), groups=st.integers(1, 3), seed=seeds(), stall=stalls("i", "o"))
def test_scheduler(k, lanes, pixels, groups, seed, stall):
    k = [terms for terms in k for _ in range(groups)]
    scheduler = FilterScheduler(k=k, lanes=lanes, width=16, pixels=pixels, groups=groups)
    slots = scheduler.passes * lanes
    places = slot_places(np.reshape(k, (groups, -1)).sum(axis=1).tolist(), lanes)
    sums = np.zeros((1, 3, pixels, slots), np.int64)    # lanes without a slot have zero terms
    sums[..., places] = np.random.default_rng(seed).integers(-3000, 3000, (3, pixels, len(places)))
    run = run_streams(scheduler, {"i": as_transfers(sums, pixels)}, {"o": 3 * len(k)}, seed=seed,
                      stall=stall)
    found = as_map(run["o"], (3, pixels, len(k)), pixels)
    assert found.reshape(-1, len(k)).tolist() == scheduler.compute(sums.ravel()).tolist()


@given(width=st.integers(1, 40), depth=st.integers(1, 70), register=st.booleans(), seed=seeds(),
       stall=stalls("o"))
def test_rom(width, depth, register, seed, stall):
    words = np.random.default_rng(seed).integers(0, 1 << width, depth).tolist()
    rom = RomStream(width, words, register=register)
    run = run_streams(rom, {}, {"o": 2 * depth + 3}, seed=seed, stall=stall, idle=0)
    assert run["o"] == rom.compute(2 * depth + 3)


@given(parameters=windows(), seed=seeds(), stall=stalls("i", "o"))
def test_window(parameters, seed, stall):
    window = SlidingWindow(**parameters)
    rng = np.random.default_rng(seed)
    images = rng.integers(window.format.min, window.format.max, (3, *window.shape), endpoint=True)
    simulate_window(window, images, seed=seed, stall=stall)


@given(output=activation_formats(), filters=st.integers(1, 6), width=st.integers(3, 40),
       shifts=st.lists(st.integers(0, 31), min_size=1, max_size=3), register=st.booleans(),
       pixels=st.integers(1, 3), seed=seeds(), stall=stalls("i", "o"))
def test_requantizer(output, filters, width, shifts, register, pixels, seed, stall):
    rng = np.random.default_rng(seed)
    low, high = -(1 << (width - 1)) + 3, (1 << (width - 1)) - 1
    requantizer = Requantizer(
        low=low, high=high, bias=rng.integers(low, high, filters, endpoint=True).tolist(),
        shift=rng.choice(shifts, filters).tolist(), output=output, register=register,
        pixels=pixels)
    sums = rng.integers(low, high, (1, 12, pixels, filters), endpoint=True)
    sums[:, 0], sums[:, 1], sums[:, 2] = low, high, 0
    run = run_streams(requantizer, {"i": as_transfers(sums, pixels)}, {"o": 12 * filters},
                      seed=seed, stall=stall)
    found = as_map(run["o"], (12, pixels, filters), pixels)
    np.testing.assert_array_equal(found, requantizer.compute(sums))


@given(width=st.integers(1, 20), seed=seeds(), stall=stalls("i", "o"))
def test_buffer(width, seed, stall):
    values = np.random.default_rng(seed).integers(0, 1 << width, 80).tolist()
    run = run_streams(StreamBuffer(unsigned(width)), {"i": values}, {"o": 80}, seed=seed,
                      stall=stall)
    assert run["o"] == values


@given(parameters=pools(), seed=seeds(), stall=stalls("i", "o"))
def test_pool(parameters, seed, stall):
    pool = (SumPooling if "bias" in parameters else MaxPooling)(**parameters)
    rng = np.random.default_rng(seed)
    images = rng.integers(pool.format.min, pool.format.max, (2, *pool.shape), endpoint=True)
    simulate_pool(pool, images, seed=seed, stall=stall)


@given(count=st.integers(1, 12), width=st.integers(1, 20), spread=st.integers(1, 20), seed=seeds(),
       stall=stalls("i", "o"))
def test_argmax(count, width, spread, seed, stall):
    """Logits of few values too, so that many are equal."""
    high = 1 << (min(width, spread) - 1)
    logits = np.random.default_rng(seed).integers(-high, high, (6, count))
    simulate_argmax(Argmax(count=count, width=width), logits, seed=seed, stall=stall)


@given(case=engines(), stall=stalls("i", "o"))
def test_engine(case, stall):
    """Window, weights, array, scheduler and requantizer as one, against the golden model too."""
    engine, maps = case.build(images=4)
    expected = golden.apply(engine.folded.layer, maps)
    np.testing.assert_array_equal(engine.compute(maps), expected)
    folded, pixels = engine.folded, engine.folded.folding.pixels
    run = run_streams(engine, {"i": as_transfers(maps, folded.source_pixels)},
                      {"o": expected.size // pixels}, seed=case.seed, stall=stall, timeout=400_000)
    np.testing.assert_array_equal(as_map(run["o"], expected.shape[1:], pixels), expected)


@given(cycles=st.integers(8, 40), error=st.floats(-MAX_BAUD_ERROR, MAX_BAUD_ERROR),
       data=st.lists(st.tuples(st.integers(0, 255), st.integers(0, 3)), min_size=1, max_size=8))
def test_receiver(cycles, error, data):
    """Bytes with idle bits between them, from a host whose clock is off."""
    bits = [bit for byte, idle in data for bit in [*bits_of(byte), *[1] * idle]]
    assert receive(cycles, bits, len(data), host=1 + error) == ([byte for byte, _ in data], [])


@given(frame=frames(), requests=st.lists(st.booleans(), min_size=1, max_size=4), seed=seeds(),
       stall=st.sampled_from([0.0, 0.5]))
def test_link(frame, requests, seed, stall):
    """Requests, some of them with a byte that is wrong: results for the good ones alone."""
    rig = Rig(frame, seed=seed, stall=stall)
    rng = np.random.default_rng(seed)
    inputs = link_images(frame, len(requests), seed)

    async def bench(ctx):
        for n, (image, good) in enumerate(zip(inputs, requests, strict=True)):
            request = bytearray(frame.request(n, image))
            if not good:
                request[int(rng.integers(1, len(request) - 1))] ^= 1 << int(rng.integers(8))
                await rig.send(ctx, request)
            assert await rig.ask(ctx, frame.request(n, image)) == rig.reply(n, image)

    rig.run(bench)

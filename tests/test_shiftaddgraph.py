# amaranth: UnusedElaboratable=no
"""Shift-add graphs in gateware: the twin, latency, pace and cost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightrtl.formats import ActivationFormat
from flightrtl.gateware import ShiftAddGraph
from flightrtl.shiftadd import shift_add
from tests.strategies import activation_formats, seeds, stalls
from tests.streams import run_streams
from tests.synthesis import cells


def simulate(dut, vectors, **options):
    expected = dut.compute(vectors)
    rows = expected.shape[1]
    run = run_streams(dut, {"i": vectors.tolist()}, {"o": len(expected)}, **options)
    assert [[word[n] for n in range(rows)] for word in run["o"]] == expected.tolist()
    return run


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 8), activation_formats(),
       st.integers(1, 3), st.booleans(), seeds(), stalls("i", "o"))
def test_twin(rows, columns, bits, form, stage, raw, seed, stall):
    rng = np.random.default_rng(seed)
    matrix = rng.integers(-(1 << bits), 1 << bits, (rows, columns), endpoint=True)
    matrix[rng.random(matrix.shape) < 0.2] = 0
    dut = ShiftAddGraph(shift_add(matrix, form), stage=stage, raw=raw)
    # Those that drive the sums to their ends are among them.
    ends = np.where(matrix > 0, form.max, form.min), np.where(matrix < 0, form.max, form.min)
    vectors = np.concatenate([
        *ends, rng.integers(form.min, form.max, (6, columns), endpoint=True)])
    assert (dut.compute(vectors) * dut.factors).tolist() == (vectors @ matrix.T).tolist()
    simulate(dut, vectors, seed=seed, stall=stall)


@pytest.mark.parametrize(("stage", "latency"), [(1, 4), (2, 2), (3, 2), (4, 1)])
def test_latency_and_pace(stage, latency):
    dut = ShiftAddGraph(shift_add([[1] * 16, [0] * 15 + [1]], ActivationFormat(4)), stage=stage)
    run = simulate(dut, np.random.default_rng(0).integers(0, 16, (20, 16)))
    assert run.cycles["o"] == list(range(latency, latency + 20))


@pytest.mark.parametrize("family", ["ice40", "ecp5"])
def test_cost_is_that_of_the_formula(family, tmp_path):
    """An adder bit is a LUT4, on iCE40 two where it is subtracted; ECP5 has bits in pairs."""
    rng = np.random.default_rng(0)
    matrix = rng.choice([0, 1, -1, 2, 4, -8, 5], (4, 9))
    dut = ShiftAddGraph(shift_add(matrix, ActivationFormat(6)))
    graph = dut.graph
    found = cells(dut, family, tmp_path)
    lut4 = found["SB_LUT4"] + found["LUT4"] + 2 * found["CCU2C"]
    negative = sum(len(dut.o.payload[0]) for result in graph.sums if result.negative)
    subtracted = sum(graph.adder_bits(n) for n, adder in enumerate(graph.adders) if adder.subtract)
    least = graph.lut4
    assert least * 0.95 <= lut4 <= least * 1.15 + negative + (family == "ice40") * subtracted
    flip_flops = sum(count for cell, count in found.items()
                     if cell.startswith("SB_DFF") or cell == "TRELLIS_FF")
    assert abs(flip_flops - graph.register_bits(1) - graph.latency(1)) <= 0.02 * flip_flops


def test_bad_parameters():
    with pytest.raises(TypeError, match="graph must be an AdderGraph"):
        ShiftAddGraph([[1]])
    with pytest.raises(ValueError, match="stage must be 1 to"):
        ShiftAddGraph(shift_add([[1]], ActivationFormat()), stage=0)

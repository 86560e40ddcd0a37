"""Shift-add graphs: exact for every matrix, and cheaper than without sharing."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightrtl import modelfile
from flightrtl.formats import ActivationFormat
from flightrtl.shiftadd import Adder, Sum, digits, shift_add
from tests.strategies import activation_formats, seeds


@st.composite
def matrices(draw):
    """Matrices with zeros and with rows that are alike, of 1 to 10 bits."""
    rows, columns, bits = draw(st.integers(1, 5)), draw(st.integers(1, 8)), draw(st.integers(1, 10))
    rng = np.random.default_rng(draw(seeds()))
    matrix = rng.integers(-(1 << bits), 1 << bits, (rows, columns), endpoint=True)
    matrix *= rng.random(matrix.shape) < draw(st.sampled_from([0.3, 0.8, 1.0]))
    if draw(st.booleans()):
        matrix[-1] = matrix[0] * draw(st.sampled_from([1, -1, 4, -2]))
    return matrix


@given(matrices(), activation_formats(8), seeds())
def test_exact_and_never_more_adders(matrix, form, seed):
    graph, plain = shift_add(matrix, form), shift_add(matrix, form, share=False)
    values = np.random.default_rng(seed).integers(form.min, form.max, (6, matrix.shape[1]),
                                                  endpoint=True)
    assert graph.compute(values).tolist() == (values @ matrix.T).tolist()
    assert plain.compute(values).tolist() == (values @ matrix.T).tolist()
    assert graph.weights.tolist() == matrix.tolist()
    assert len(graph.adders) <= len(plain.adders)
    # Without sharing: a digit less than the row has.
    assert len(plain.adders) == sum(max(0, sum(len(digits(w)) for w in row) - 1)
                                    for row in matrix.tolist())


def test_digits_are_the_fewest():
    """Against all sums of up to three signed powers of two."""
    powers = [sign << n for n in range(8) for sign in (1, -1)]
    fewest = {0: 0}
    for count in (1, 2, 3):
        for chosen in itertools.combinations_with_replacement(powers, count):
            fewest.setdefault(sum(chosen), count)
    for weight in range(-127, 128):
        found = digits(weight)
        assert sum(-(1 << n) if negative else 1 << n for n, negative in found) == weight
        assert found == sorted(found)
        assert len(found) == fewest.get(weight, 4)


def test_no_subtraction_where_binary_is_as_short():
    assert digits(3) == [(0, False), (1, False)]
    assert digits(-6) == [(1, True), (2, True)]
    assert digits(23) == [(0, True), (3, True), (5, False)]


@pytest.mark.parametrize(("matrix", "adders", "sums"), [
    ([[8]], (), (Sum(0, 3),)),
    ([[0, 0]], (), (Sum(-1),)),
    ([[-1, 0]], (), (Sum(0, 0, True),)),
    ([[5], [10], [-20]], (Adder(0, 0, 2, False),), (Sum(1), Sum(1, 1), Sum(1, 2, True))),
    # 85 = 5 + 5 * 16: a pair in the same row.
    ([[85]], (Adder(0, 0, 2, False), Adder(1, 1, 4, False)), (Sum(2),)),
    # x - y is one adder for both rows, and no row needs a negation of its own.
    ([[1, -1, 1], [-2, 2, 1]],
     (Adder(0, 1, 0, True), Adder(2, 3, 0, False), Adder(2, 3, 1, True)), (Sum(4), Sum(5))),
])
def test_small_cases(matrix, adders, sums):
    graph = shift_add(matrix, ActivationFormat(4))
    assert graph.adders == adders
    assert graph.sums == sums


def test_ranges_are_reached():
    """Both ends of every node, over all inputs: its width is none too large or small."""
    matrix = np.array([[3, -5, 7], [7, 6, 0], [-9, 10, -14]])
    for form in (ActivationFormat(2), ActivationFormat(2, True)):
        graph = shift_add(matrix, form)
        values = np.array(list(itertools.product(range(form.min, form.max + 1), repeat=3)))
        for row in range(3):
            results = values @ matrix[row]
            assert graph.sum_range(row) == (results.min(), results.max())
        everything = np.stack([values @ node for node in graph._coefficients()], axis=-1)
        lows, highs = everything.min(axis=0), everything.max(axis=0)
        assert graph.ranges == tuple(zip(lows.tolist(), highs.tolist(), strict=True))


def test_bits_of_adders():
    form = ActivationFormat(4)
    # 15 + 15 takes 5 bits; x + 8y leaves the lower 3 alone; x and 16y lie side by side.
    for matrix, bits in (([[1, 1]], 5), ([[1, 8]], 8 - 3), ([[1, 16]], 0), ([[1, -16]], 9 - 4)):
        graph = shift_add(matrix, form)
        assert graph.lut4 == bits
        assert graph.adder_bits(0) == bits


def test_pipeline():
    """Eight inputs in a tree of three adders, and a ninth that waits for them."""
    graph = shift_add([[1] * 8 + [0], [0] * 8 + [1]], ActivationFormat(4))
    assert graph.depth == 3
    assert graph.latency(1) == 3
    assert graph.latency(2) == 2
    assert graph.latency(3) == graph.latency(9) == 1
    # Adders of 5, 6 and 7 bits, each with a register; the ninth input in three.
    assert graph.register_bits(1) == 4 * 5 + 2 * 6 + 7 + 3 * 4
    assert graph.register_bits(2) == 2 * 6 + 7 + 2 * 4
    assert graph.register_bits(3) == 7 + 4


def test_deep_nodes_do_not_make_trees_deep():
    """Sharing makes a graph no deeper than a few adders beyond the tree of the longest row."""
    model = modelfile.load("mnist")
    layer = model.layers[1]
    graph = shift_add(layer.weights.reshape(layer.filters, -1), model.source(layer).format)
    plain = shift_add(layer.weights.reshape(layer.filters, -1), model.source(layer).format,
                      share=False)
    assert len(graph.adders) < 0.6 * len(plain.adders)
    assert graph.lut4 < 0.7 * plain.lut4
    assert graph.depth <= plain.depth + 2


def test_deterministic_and_reports_progress():
    rng = np.random.default_rng(0)
    matrix = rng.integers(-100, 100, (12, 80))
    seen = []
    graph = shift_add(matrix, ActivationFormat(8), progress=seen.append)
    again = shift_add(matrix.tolist(), ActivationFormat(8))
    assert (graph.adders, graph.sums) == (again.adders, again.sums)
    assert seen
    assert seen == list(range(256, len(graph.adders), 256))[:len(seen)]


@pytest.mark.parametrize(("weights", "error", "message"), [
    ([[0.5]], TypeError, "weights must be integers, not float64"),
    ([1, 2], ValueError, r"weights must be a matrix .* not of shape \(2,\)"),
    ([[1 << 40]], ValueError, r"weights must be at most 2\*\*31 in magnitude"),
])
def test_bad_weights(weights, error, message):
    with pytest.raises(error, match=message):
        shift_add(weights, ActivationFormat(8))


def test_wrong_number_of_inputs():
    with pytest.raises(ValueError, match="values must have 2 inputs along the last axis, not 3"):
        shift_add([[1, 2]], ActivationFormat(8)).compute([[1, 2, 3]])

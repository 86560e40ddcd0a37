"""Shift-add graphs: a matrix of constants as adders that share what they can.

``y = W x`` with a constant integer matrix needs no multiplier: every weight is a sum of signed
powers of two, every power of two is a wire, and what is left are additions. Many of them are the
same in several rows, or in the same row at another shift; :func:`shift_add` finds such common
sub-expressions and computes each of them once.

The choice is greedy, two terms at a time, by what it saves: R. Hartley, "Subexpression sharing
in filters using canonic signed digit multipliers", IEEE Trans. Circuits Syst. II 43(10), 1996,
here over all rows of a matrix and weighted by the width of the adders, as in C. Sun et al.,
"da4ml: distributed arithmetic for real-time neural networks on FPGAs", arXiv 2507.04535.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .formats import ActivationFormat, IntArray, signed_bits

__all__ = ["Adder", "AdderGraph", "Sum", "digits", "shift_add"]

_SHIFTS = 64
"""Room for shifts in the number that stands for a pair of terms."""
_PAUSE = 256
"""Shared adders between two reports of progress."""


def digits(weight: int) -> list[tuple[int, bool]]:
    """``weight`` as the fewest signed powers of two: (exponent, negative), least first.

    That is the canonical signed digit form, but the plain binary one where it has no more
    digits: it takes no subtraction, and sums of it are narrower.

    >>> digits(7), digits(-3)
    ([(0, True), (3, False)], [(0, True), (1, True)])
    """
    size, negative = abs(weight), weight < 0
    binary = [n for n in range(size.bit_length()) if size >> n & 1]
    canonical = []
    rest, exponent = size, 0
    while rest:
        if rest & 1:
            minus = rest & 3 == 3
            canonical.append((exponent, minus != negative))
            rest += 1 if minus else -1
        rest >>= 1
        exponent += 1
    if len(binary) <= len(canonical):
        return [(n, negative) for n in binary]
    return canonical


class Adder(NamedTuple):
    """A node of the graph: ``low + (high << shift)``, or minus."""

    low: int
    """Node that is not shifted: its ``shift`` lowest bits are the result's."""
    high: int
    """Node that is."""
    shift: int
    """0 or more."""
    subtract: bool
    """Whether ``high`` is subtracted."""


class Sum(NamedTuple):
    """One result: ``node << shift``, perhaps negated; or 0."""

    node: int
    """The node, or -1 for a result that is always 0."""
    shift: int = 0
    negative: bool = False


@dataclass(frozen=True, eq=False)
class AdderGraph:
    """Additions that give all sums of a constant matrix at once.

    Nodes are numbered: first the inputs, then the adders, each after the nodes it takes.

    Parameters
    ----------
    inputs : int
        Columns of the matrix.
    format : ActivationFormat
        Of every input.
    adders : tuple of Adder
        The additions.
    sums : tuple of Sum
        One for each row of the matrix.
    """

    inputs: int
    format: ActivationFormat
    adders: tuple[Adder, ...]
    sums: tuple[Sum, ...]

    @cached_property
    def weights(self) -> IntArray:
        """The matrix (rows, columns) that the graph computes."""
        nodes = self._coefficients()
        rows = np.zeros((len(self.sums), self.inputs), np.int64)
        for row, result in zip(rows, self.sums, strict=True):
            if result.node >= 0:
                row += (nodes[result.node] << result.shift) * (-1 if result.negative else 1)
        return rows

    def _coefficients(self) -> IntArray:
        """Every node as a row of the inputs' factors."""
        nodes = np.zeros((self.inputs + len(self.adders), self.inputs), np.int64)
        nodes[:self.inputs] = np.eye(self.inputs, dtype=np.int64)
        for node, (low, high, shift, subtract) in enumerate(self.adders, self.inputs):
            shifted = nodes[high] << shift
            nodes[node] = nodes[low] - shifted if subtract else nodes[low] + shifted
        return nodes

    @cached_property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """Least and greatest value of every node: exact, both are reached."""
        nodes = self._coefficients()
        up = np.maximum(nodes, 0).sum(axis=1)
        down = np.minimum(nodes, 0).sum(axis=1)
        low = up * self.format.min + down * self.format.max
        high = up * self.format.max + down * self.format.min
        return tuple(zip(low.tolist(), high.tolist(), strict=True))

    def sum_range(self, row: int) -> tuple[int, int]:
        """Least and greatest value of a result."""
        result = self.sums[row]
        if result.node < 0:
            return 0, 0
        low, high = (end << result.shift for end in self.ranges[result.node])
        return (-high, -low) if result.negative else (low, high)

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Bits of every node; one that is never negative has no sign bit."""
        return tuple(signed_bits(low, high) if low < 0 else max(1, high.bit_length())
                     for low, high in self.ranges)

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """For every node, the adders on the longest way to it."""
        depths = [0] * self.inputs
        for low, high, _, _ in self.adders:
            depths.append(1 + max(depths[low], depths[high]))
        return tuple(depths)

    @property
    def depth(self) -> int:
        """Adders on the longest way to a result."""
        return max((self.depths[result.node] for result in self.sums if result.node >= 0),
                   default=0)

    def adder_bits(self, index: int) -> int:
        """Bits of adder ``index`` that take logic: those where both operands are."""
        low, _, shift, subtract = self.adders[index]
        if not subtract and self.ranges[low][0] >= 0 and self.widths[low] <= shift:
            return 0  # side by side
        return max(0, self.widths[self.inputs + index] - shift)

    @cached_property
    def lut4(self) -> int:
        """Logic cells, one for each bit of an adder; without what negates a result."""
        return sum(self.adder_bits(n) for n in range(len(self.adders)))

    def steps(self, stage: int) -> tuple[int, ...]:
        """For every node, the pipeline step that computes it, from 1; inputs have 0.

        Parameters
        ----------
        stage : int
            Adders in a row between registers.
        """
        return tuple(-(-depth // stage) for depth in self.depths)

    def latency(self, stage: int) -> int:
        """Pipeline steps; results leave the last one together."""
        return max(1, -(-self.depth // stage))

    def registers(self, stage: int) -> tuple[int, ...]:
        """For every node, the registers that it passes through until the last one takes it."""
        steps = self.steps(stage)
        taken = list(steps)
        for node, (low, high, _, _) in enumerate(self.adders, self.inputs):
            for operand in (low, high):
                taken[operand] = max(taken[operand], steps[node])
        for result in self.sums:
            if result.node >= 0:
                taken[result.node] = self.latency(stage) + 1
        return tuple(max(0, last - step - (node < self.inputs))
                     for node, (step, last) in enumerate(zip(steps, taken, strict=True)))

    def register_bits(self, stage: int) -> int:
        """Flip-flops of the pipeline's data."""
        return sum(width * count
                   for width, count in zip(self.widths, self.registers(stage), strict=True))

    def compute(self, values: ArrayLike) -> IntArray:
        """The results (..., rows) for inputs (..., columns), adder by adder."""
        inputs = np.moveaxis(np.asarray(values, np.int64), -1, 0)
        if len(inputs) != self.inputs:
            raise ValueError(f"values must have {self.inputs} inputs along the last axis, "
                             f"not {len(inputs)}")
        nodes = list(inputs)
        for low, high, shift, subtract in self.adders:
            shifted = nodes[high] << shift
            nodes.append(nodes[low] - shifted if subtract else nodes[low] + shifted)
        zero = np.zeros(inputs.shape[1:], np.int64)
        return np.stack([
            zero if result.node < 0 else (nodes[result.node] << result.shift)
            * (-1 if result.negative else 1) for result in self.sums], axis=-1)


_Terms = dict[int, dict[int, bool]]
"""What is left of a row: by node and shift, whether that term is subtracted."""


class _Sharing:
    """Rows of terms, and how often each pair of terms occurs in them.

    A pair is two nodes, a shift between them, and whether their signs differ; a number stands for
    it. Replacing a pair makes no new pair of the same nodes, so that each is replaced once.
    """

    def __init__(self, weights: IntArray, bits: int) -> None:
        self.inputs = weights.shape[1]
        self.rows: list[_Terms] = []
        self.adders: list[Adder] = []
        self.widths = [bits] * self.inputs
        self.depths = [0] * self.inputs
        self.counts: dict[int, int] = {}
        self.touched: set[int] = set()
        self.heap: list[tuple[int, int, int]] = []
        for row in weights.tolist():
            terms: _Terms = {}
            self.rows.append(terms)
            for node, weight in enumerate(row):
                for shift, negative in digits(weight):
                    self._put(terms, node, shift, negative)
        self._rank()

    def _count(self, terms: _Terms, node: int, shift: int, negative: bool, change: int) -> None:
        """Count the pairs of a term with all others of its row."""
        counts, touched = self.counts, self.touched
        for other, places in terms.items():
            for place, sign in places.items():
                distance = place - shift
                if distance > 0 or (distance == 0 and other > node):
                    pair = (node << 24 | other) * _SHIFTS + distance
                else:
                    pair = (other << 24 | node) * _SHIFTS - distance
                pair = pair << 1 | (sign != negative)
                counts[pair] = counts.get(pair, 0) + change
                touched.add(pair)

    def _put(self, terms: _Terms, node: int, shift: int, negative: bool) -> None:
        self._count(terms, node, shift, negative, 1)
        terms.setdefault(node, {})[shift] = negative

    def _take(self, terms: _Terms, node: int, shift: int) -> bool:
        negative = terms[node].pop(shift)
        if not terms[node]:
            del terms[node]
        self._count(terms, node, shift, negative, -1)
        return negative

    def _rank(self) -> None:
        """Offer pairs whose count has changed, by the bits of adders that each would save."""
        for pair in self.touched:
            count = self.counts[pair]
            if count == 0:
                del self.counts[pair]
            if count < 2:
                continue
            low, high, shift, _ = self._split(pair)
            bits = max(self.widths[low] - shift, self.widths[high]) + 1
            depth = max(self.depths[low], self.depths[high])
            heapq.heappush(self.heap, (-(count - 1) * bits, depth, pair))
        self.touched.clear()

    @staticmethod
    def _split(pair: int) -> tuple[int, int, int, bool]:
        nodes, shift = divmod(pair >> 1, _SHIFTS)
        return nodes >> 24, nodes & (1 << 24) - 1, shift, bool(pair & 1)

    def best(self) -> int | None:
        """The pair that saves most, if any occurs twice."""
        while self.heap:
            saved, _, pair = heapq.heappop(self.heap)
            low, high, shift, _ = self._split(pair)
            bits = max(self.widths[low] - shift, self.widths[high]) + 1
            if self.counts.get(pair, 0) >= 2 and (self.counts[pair] - 1) * bits == -saved:
                return pair
        return None

    def add(self, low: int, high: int, shift: int, subtract: bool) -> int:
        """A new node."""
        self.adders.append(Adder(low, high, shift, subtract))
        self.widths.append(max(self.widths[low], self.widths[high] + shift) + 1)
        self.depths.append(1 + max(self.depths[low], self.depths[high]))
        return len(self.widths) - 1

    def replace(self, pair: int) -> None:
        """Make a pair a node and put it where the pair occurs, if that is twice or more."""
        low, high, distance, differ = self._split(pair)
        found = []
        for terms in self.rows:
            if low not in terms or high not in terms:
                continue
            gone: set[int] = set()
            for shift, negative in sorted(terms[low].items()):
                partner = terms[high].get(shift + distance)
                if partner is None or (partner != negative) != differ:
                    continue
                if low == high and (shift in gone or shift + distance in gone):
                    continue  # x + 2x + 4x holds the pair x + 2x once
                gone |= {shift, shift + distance}
                found.append((terms, shift))
        if len(found) >= 2:
            node = self.add(low, high, distance, differ)
            for terms, shift in found:
                negative = self._take(terms, low, shift)
                self._take(terms, high, shift + distance)
                self._put(terms, node, shift, negative)
        else:
            self.counts[pair] = 1
        self._rank()

    def finish(self, terms: _Terms) -> Sum:
        """Add up what is left of a row: always the two terms that are there first."""
        queue = [(self.depths[node], shift, node, negative)
                 for node, places in terms.items() for shift, negative in places.items()]
        heapq.heapify(queue)
        if not queue:
            return Sum(-1)
        while len(queue) > 1:
            one, other = heapq.heappop(queue), heapq.heappop(queue)
            # The lower one stays as it is, so that only the bits above it are added; of two that
            # are level, the positive one.
            low, high = sorted((one, other), key=_level)
            node = self.add(low[2], high[2], high[1] - low[1], low[3] != high[3])
            heapq.heappush(queue, (self.depths[node], low[1], node, low[3]))
        _, shift, node, negative = queue[0]
        return Sum(node, shift, negative)


def _level(term: tuple[int, int, int, bool]) -> tuple[int, bool]:
    return term[1], term[3]


def shift_add(weights: ArrayLike, format: ActivationFormat, *, share: bool = True,
              progress: Callable[[int], None] | None = None) -> AdderGraph:
    """The graph that computes ``weights @ x``.

    The same weights always give the same graph. A matrix of 16 x 144 sums of two terms takes
    about two seconds; time and memory grow with rows times the square of their terms.

    Parameters
    ----------
    weights : array of integers, (rows, columns)
        The constants, up to 2**31 in magnitude.
    format : ActivationFormat
        Of every input.
    share : bool
        Whether to look for common sub-expressions.
    progress : callable, optional
        Called now and then with the number of adders so far.

    Raises
    ------
    TypeError
        If the weights are not integers.
    ValueError
        If they are no matrix with at least one row and column, or too large.
    """
    matrix = np.asarray(weights)
    if not np.issubdtype(matrix.dtype, np.integer):
        raise TypeError(f"weights must be integers, not {matrix.dtype}")
    if matrix.ndim != 2 or not matrix.size:
        raise ValueError("weights must be a matrix (rows, columns) that is not empty, not of shape "
                         f"{matrix.shape}")
    matrix = matrix.astype(np.int64)
    if np.abs(matrix).max() > 1 << 31:
        raise ValueError("weights must be at most 2**31 in magnitude, not "
                         f"{np.abs(matrix).max()}")
    sharing = _Sharing(matrix, format.bits)
    while share and (pair := sharing.best()) is not None:
        sharing.replace(pair)
        if progress is not None and len(sharing.adders) % _PAUSE == 0:
            progress(len(sharing.adders))
    sums = tuple(sharing.finish(terms) for terms in sharing.rows)
    return AdderGraph(matrix.shape[1], format, tuple(sharing.adders), sums)

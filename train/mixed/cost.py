"""What a choice of formats costs: bits of the model, or the planner's estimate on a board."""

from __future__ import annotations

from dataclasses import replace

from flightrtl.boards import Board
from flightrtl.formats import signed_bits
from flightrtl.gateware.network import require_supported
from flightrtl.model import Convolution, Dense, Model
from flightrtl.planner import plan

from ..export import export, model_bits
from ..network import Network

__all__ = ["BoardCost", "stored_bits"]

_SHIFT_BITS = 5


def stored_bits(model: Model) -> dict[str, int]:
    """Everything that inference needs of a model, in bits.

    ``weights``: the codes, :func:`~train.export.model_bits`. ``rest``: the biases of each layer, as
    wide as its largest; its shifts, once where they are all equal; k of every filter where it
    differs.
    """
    rest = 0
    for layer in model.layers:
        if isinstance(layer, (Convolution, Dense)):
            filters = len(layer.k)
            rest += filters * signed_bits(min(0, int(layer.bias.min())), int(layer.bias.max()))
            rest += _SHIFT_BITS * (filters if len(set(layer.shift.tolist())) > 1 else 1)
            rest += filters * (max(layer.k).bit_length() if len(set(layer.k)) > 1 else 0)
    return {"weights": model_bits(model), "rest": rest}


class BoardCost:
    """The planner's estimate for the network on a board.

    Parameters
    ----------
    board : Board
        What it is for.
    objective : {"cycles", "luts"}
        ``cycles``: cycles for each inference of the fastest plan that fits. ``luts``: LUT4 of the
        smallest plan that reaches the rate.
    rate : float, optional
        Inferences per second, for ``luts``; the board's default if not given.
    """

    def __init__(self, board: Board, objective: str, rate: float | None = None) -> None:
        if objective not in ("cycles", "luts"):
            raise ValueError(f"the planner estimates cycles and luts, not {objective!r}")
        # The planner stops at a board's default rate, which is no end in itself here.
        self.board = replace(board, default_rate=None) if objective == "cycles" else board
        self.objective, self.rate = objective, rate if objective == "luts" else None

    def check(self, network: Network) -> None:
        """``ModelError`` if there is no gateware for some layer of a folded network."""
        require_supported(export(network, "trial", {}))

    def __call__(self, network: Network) -> float:
        """The cost of a folded network.

        Raises
        ------
        BuildError
            If it does not fit, or misses the rate.
        """
        found = plan(export(network, "trial", {}), self.board, target_rate=self.rate)
        return float(found.cycles_per_inference if self.objective == "cycles"
                     else found.cost.lut4)

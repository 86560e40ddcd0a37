"""What is asked of the builder, and what it comes to: model and board, read and checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from . import boards, modelfile
from .boards import Board
from .errors import UserError
from .gateware import require_supported
from .loadable import loadable
from .model import Model
from .planner import Plan, plan
from .progress import Progress
from .protocol import require_loads
from .top import require_link

__all__ = ["WEIGHTS", "Job", "Request"]

WEIGHTS = "fixed", "replaceable", "loadable"
"""What can be asked for, see :class:`Request`."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for.

    Parameters
    ----------
    model, board : str
        Name or file.
    frequency : float, optional
        Clock of the design, MHz; the board's own if None.
    target_rate : float, optional
        Inferences per second that are enough; as fast as possible if None.
    seeds : int, optional
        Place-and-route tries, of which the fastest is kept; if None, as many as it takes, up
        to four.
    dataflow : {"mixed", "folded", "frame"}
        Whether the planner chooses one for each layer, or all are folded or all have frame
        buffers.
    output : Path, optional
        Where the products go; ``build/<board>/<model>`` if None.
    weights : {"fixed", "replaceable", "loadable"}
        Whether the contents of the finished bitstream can be replaced by another model's, see
        :mod:`flightrtl.reuse`; and whether those of the running design can too, over the link.
    terms : float, optional
        For weights that are not fixed, terms per weight to have room for, in the mean over a
        layer's filters; as many as the model has if None.
    link : {"uart", "spi"}
        The line to the host.
    flash : str, optional
        The layer whose weights are in the board's flash; "auto" if that is to be found out.
    """

    model: str = "mnist"
    board: str = "ice40"
    frequency: float | None = None
    target_rate: float | None = None
    seeds: int | None = None
    dataflow: str = "mixed"
    output: Path | None = None
    weights: str = "fixed"
    terms: float | None = None
    flash: str | None = None
    link: str = "uart"

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise ValueError(f"weights must be one of {', '.join(WEIGHTS)}, not {self.weights!r}")


class Job:
    """A request with its model and board read and checked.

    With ``link``, it is for a design that a host talks to.
    """

    def __init__(self, request: Request, *, link: bool = True) -> None:
        self.request = request
        self.board: Board = boards.load(request.board)
        require_link(self.board, request.link)
        self.model: Model = modelfile.load(request.model)
        require_supported(self.model, link=link)
        self.sha256 = modelfile.sha256(request.model)
        self.output = request.output or Path("build", self.board.name, self.model.name)
        self.design: Model = self.model
        """What the hardware is made for: the model, padded if its weights can be replaced."""
        self.writable = request.weights == "loadable"
        if request.weights != "fixed":
            if request.dataflow == "frame":
                raise UserError("weights of layers with frame-based reuse cannot be replaced: "
                                f"leave out --weights {request.weights}, or --dataflow frame")
            if self.writable:
                require_loads(self.model)
            self.design = loadable(self.model, self.board.family, terms=request.terms,
                                   writable=self.writable)
        elif request.terms is not None:
            raise UserError("room for more terms is for weights that are not fixed: ask for that "
                            "too (--weights replaceable, or loadable), or leave it out (--room)")

    def plan(self, progress: Progress) -> Plan:
        """Choose the foldings."""
        progress.step(f"planning {self.model.name} for {self.board.name}")
        chosen = plan(self.design, self.board, frequency=self.request.frequency,
                      target_rate=self.request.target_rate, dataflow=self.request.dataflow,
                      flash=self.request.flash)
        progress.done(f"{chosen.inferences_per_second:,.0f} inferences per second "
                      f"at {chosen.clock_mhz:g} MHz")
        return chosen

    def owner(self, cell: str) -> str:
        """The part of the design that a cell is counted for, by its hierarchical name.

        ``network.NAME`` for a layer, and otherwise ``network`` (what joins the layers), or, as
        in a plan, ``argmax``, ``link``, ``clock``; ``pins`` for the rest.
        """
        path = cell.split(".")
        if path[:2] == ["system", "network"] and len(path) > 3:
            if any(layer.name == path[2] for layer in self.model.layers):
                return f"network.{path[2]}"
            return "argmax" if path[2] == "argmax" else "network"
        if path[:2] == ["system", "network"]:
            return "network"
        return {"system": "link", "clocking": "clock"}.get(path[0], "pins")

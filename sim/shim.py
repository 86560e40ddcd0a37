"""The C++ that stands between a generated simulation and Python.

Every back end (CXXRTL, Verilator) makes a C++ class of a design. The shim wraps it in a few C
functions, the same for all: make and destroy an instance, set and get a port, clock it, and run
streams for many cycles at once. A back end supplies three things:

* C++ text that includes its headers and defines ``struct Model``, with

  - ``before_edge()``: settle this cycle's values; afterwards the ports tell the handshakes,
  - ``after_edge()``: complete the rising edge of the clock,
  - ``settle()``: settle outputs after inputs were set, without a clock edge;

* in the same text, overloads ``load(const T &port, uint64_t *words)`` and
  ``store(T &port, const uint64_t *words)`` for its types of ports (least significant word first,
  unused bits zero);
* for each port an expression for it in terms of ``model``: ``model.top.p_clk``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from .simulation import Port

__all__ = ["source"]

_RUNTIME = Path(__file__).with_name("shim.cc")


def source(model: str, ports: Mapping[str, tuple[Port, str]]) -> str:
    """C++ text of a library that :class:`~sim.simulation.Design` can load.

    Parameters
    ----------
    model : str
        The back end's C++ text, see above.
    ports : mapping of str to (Port, str)
        Each port and the expression for it, in the order in which the library numbers them.
    """
    rows = []
    for port, expression in ports.values():
        if not re.search(r"\bmodel\b", expression):
            raise ValueError(f"{expression!r} does not say where in `model` port {port.name!r} is")
        store = (f"[](Model &model, const uint64_t *w) {{ store({expression}, w); }}"
                 if port.direction == "in" else "nullptr")
        rows.append(f"    {{[](const Model &model, uint64_t *w) {{ load({expression}, w); }},\n"
                    f"     {store}}},\n")
    table = "".join(rows) or "    {nullptr, nullptr},\n"
    return _RUNTIME.read_text(encoding="utf-8").replace(
        "// MODEL\n", model).replace("// PORTS\n", table)

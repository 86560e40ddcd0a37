"""Any Amaranth component as compiled code, by way of Yosys' CXXRTL.

>>> from sim import cxxrtl                                                     # doctest: +SKIP
>>> simulation = cxxrtl.build(component).simulation()                          # doctest: +SKIP
>>> run = simulation.run({"i": [1, 2, 3]}, {"o": 3}, cycles=1000)              # doctest: +SKIP

The page ``docs/simulation.md`` has an example that runs.
"""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from amaranth import Const, Module, Signal, Value
from amaranth.back import rtlil
from amaranth.hdl import ShapeLike
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from flightrtl import toolchain
from flightrtl.progress import Progress

from . import compiler as cpp
from . import shim
from .simulation import Design, Port

__all__ = ["build", "unpack"]

# Measured with the bundled MNIST network, in million cycles a second on one core: 1.67 for iCE40
# and 0.80 for ECP5, against 1.54 and 0.69 with -O1 (which takes g++ twice as long on the latter),
# 1.53 with -O3 on iCE40, and 0.54 and 0.67 on ECP5 after Yosys' `opt -full`,
# or `opt_expr` and `opt_merge`.
FLAGS = ("-std=c++14", "-O2", "-w", "-DCXXRTL_NDEBUG", "-DNDEBUG")
# `opt_clean` after `flatten` leaves one name for the clock, which _model() looks for.
SCRIPT = "read_rtlil top.il; proc; flatten; opt_clean; write_cxxrtl -g0 top.h"

# With CXXRTL's own slices and comparisons (see _COMMIT), the two are 1.19 and 0.12.
_SLICES = Path(__file__).with_name("slice.h")

_TYPES = """
#include "slice.h"
#include "top.h"

template<size_t Bits>
inline void load(const cxxrtl::value<Bits> &port, uint64_t *words) {
    for (size_t n = 0; n < port.chunks; n += 2) words[n / 2] = port.data[n];
    for (size_t n = 1; n < port.chunks; n += 2) words[n / 2] |= uint64_t(port.data[n]) << 32;
}

template<size_t Bits>
inline void store(cxxrtl::value<Bits> &port, const uint64_t *words) {
    for (size_t n = 0; n < port.chunks; n++) port.data[n] = uint32_t(words[n / 2] >> n % 2 * 32);
}

template<size_t Bits>
inline void load(const cxxrtl::wire<Bits> &port, uint64_t *words) { load(port.curr, words); }

template<size_t Bits>
inline void store(cxxrtl::wire<Bits> &port, const uint64_t *words) {
    store(port.next, words);
    port.curr = port.next;
}
"""

# One evaluation settles the values of this cycle and computes what the registers take over;
# `commit` makes them take it over. So a cycle needs a single evaluation with the clock always
# high and just risen, and what the ports show between the two is this cycle's handshake.
_ONE_EVALUATION = """
struct Model {
    cxxrtl_design::p_top top;
    Model() { top.step(); top.p_clk.set<bool>(true); top.prev_p_clk.set<bool>(true); }
    void before_edge() { top.prev_p_clk.set<bool>(false); top.eval(); }
    void after_edge() { top.commit(); }
    void settle() { top.step(); }
};
"""

# Where one evaluation is enough, nobody asks whether a register changed, and a comparison for each,
# which no processor can predict, takes half of the time.
_COMMIT = re.compile(r"if \(([pi]_\w+)\.commit\(observer\)\) changed = true;")

# For everything that one evaluation is not enough for: feedback between the bits of a signal,
# a falling edge, a clock that is used as data, a second clock.
_BOTH_EDGES = """
struct Model {
    cxxrtl_design::p_top top;
    Model() { top.step(); }
    void before_edge() { top.p_clk.set<bool>(false); top.step(); }
    void after_edge() { top.p_clk.set<bool>(true); top.step(); }
    void settle() { top.step(); }
};
"""

_NO_CLOCK = """
struct Model {
    cxxrtl_design::p_top top;
    Model() { top.step(); }
    void before_edge() { top.step(); }
    void after_edge() {}
    void settle() { top.step(); }
};
"""


def build(component: wiring.Component, *, probes: Mapping[str, Any] | None = None,
          progress: Progress | None = None) -> Design:
    """Compile a component for simulation, or take it from the cache.

    Ports of the design are the members of the component's signature, with ``__`` between the
    parts of a name (``i__payload``), and ``rst``, if the component has anything to reset. The
    clock of the domain ``sync`` is driven by :class:`~sim.simulation.Simulation`; the clocks of
    other domains are inputs.

    Parameters
    ----------
    component : wiring.Component
        Not elaborated before.
    probes : mapping of str to stream, interface or value, optional
        Signals inside of the component that shall be visible as outputs, by name; the members of
        a stream or another interface get ``__`` and the member's name added.
    progress : Progress, optional
        Told what is going on, in a step that the caller has begun.

    Raises
    ------
    UserError
        If there is no C++ compiler; the message says how to get one.
    BuildError
        If Yosys is missing, or it or the compiler fails.
    ValueError
        If a probe has the name of a port.
    """
    compiler, yosys = cpp.find(), toolchain.find("yosys")
    text = _rtlil(component, probes or {})
    ports = [port for port in _ports(text) if port.name != "clk"]
    members = {port.name: (port, f"model.top.{_mangle(port.name)}") for port in ports}
    models = _ONE_EVALUATION + _BOTH_EDGES + _NO_CLOCK  # which of them, Yosys tells
    slices = _SLICES.read_text(encoding="utf-8")
    name = cpp.key(text, SCRIPT, FLAGS, slices, _COMMIT.pattern, yosys.version, compiler.version,
                   compiler.command, shim.source(_TYPES + models, members))
    library = cpp.cached_library(name)
    if library is None:
        with tempfile.TemporaryDirectory(prefix="flightrtl-") as temporary:
            folder = Path(temporary)
            (folder / "top.il").write_text(text, encoding="utf-8")
            if progress is not None:
                progress.update("converting to C++ (CXXRTL)")
            toolchain.run(yosys, ["-q", "-p", SCRIPT], folder=folder, log="yosys.log")
            header = (folder / "top.h").read_text(encoding="utf-8")
            model = _model(header)
            if model == _ONE_EVALUATION:
                header = _COMMIT.sub(r"\1.curr = \1.next;", header)
                (folder / "top.h").write_text(header, encoding="utf-8")
            path = folder / "shim.cc"
            path.write_text(shim.source(_TYPES + model, members), encoding="utf-8")
            (folder / "slice.h").write_text(slices, encoding="utf-8")
            library = cpp.library(name, [path], compiler=compiler, folder=folder, flags=FLAGS,
                                  include=[_headers(yosys)], progress=progress)
    return Design(library, ports)


def unpack(payloads: NDArray[Any], layout: ShapeLike) -> dict[str | int, NDArray[np.int64]]:
    """Fields of payloads that are structures.

    Parameters
    ----------
    payloads : array (N,)
        From :meth:`sim.simulation.Simulation.run`, of at most 64 bits.
    layout : data.Layout
        Their shape; each field has at most 63 bits, or 64 if it is signed.
    """
    raw = np.asarray(payloads).astype(np.int64, copy=False)
    fields = {}
    for key, field in data.Layout.cast(layout):
        shape = Value.cast(Signal(field.shape)).shape()
        left = 64 - field.offset - shape.width
        shifted = (raw << left).view(np.int64 if shape.signed else np.uint64)
        fields[key] = (shifted >> shifted.dtype.type(64 - shape.width)).astype(np.int64)
    return fields


class _Top(wiring.Component):
    """A component, with probes into it, as a module whose members are all plain signals."""

    def __init__(self, component: wiring.Component, probes: Mapping[str, Any]) -> None:
        self._component = component
        self._inside: dict[str, Value] = {}
        members: dict[str, wiring.Member] = {}
        for name, probe in {"": component, **probes}.items():
            for path, flow, value in _flat(probe):
                # A stream that is always valid or ready has a constant there.
                if isinstance(value, Const) or not len(value):
                    continue
                each = "__".join([name, *path] if name else path)
                if each in members:
                    raise ValueError(f"the component has a port {each!r} already: give the probe "
                                     f"{name!r} another name")
                members[each] = (Out if name else flow)(value.shape())
                self._inside[each] = value
        super().__init__(members)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.dut = self._component
        for name, inside in self._inside.items():
            outside = getattr(self, name)
            m.d.comb += (inside.eq(outside) if self.signature.members[name].flow == In
                         else outside.eq(inside))
        return m


def _flat(probe: Any) -> Iterator[tuple[list[str], Any, Value]]:
    """The signals of an interface or of a value, and the parts of their names."""
    if isinstance(getattr(probe, "signature", None), wiring.Signature):
        for path, member, value in probe.signature.flatten(probe):
            yield [str(part) for part in path], member.flow, Value.cast(value)
    else:
        yield [], Out, Value.cast(probe)


def _rtlil(component: wiring.Component, probes: Mapping[str, Any]) -> str:
    """RTLIL of a module ``top`` around the component."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return rtlil.convert(_Top(component, probes), name="top", emit_src=False)


_WIRE = re.compile(r"  wire width (\d+) (in|out)put \d+ +(signed )?\\(\S+)$", re.MULTILINE)


def _ports(text: str) -> list[Port]:
    """Ports of the module ``top``."""
    _, _, body = text.partition("module \\top\n")
    body, _, _ = body.partition("\nend\n")
    return [Port(name, int(width), "in" if direction == "in" else "out", bool(signed))
            for width, direction, signed, name in _WIRE.findall(body)]


def _mangle(name: str) -> str:
    """Name of a port in C++, as CXXRTL forms it."""
    return "p_" + "".join(
        c if c.isascii() and c.isalnum() else "__" if c == "_" else f"_{ord(c):x}_" for c in name)


def _model(header: str) -> str:
    """The way to clock what CXXRTL made."""
    if not re.search(r"value<1> p_clk;", header):
        return _NO_CLOCK
    edges = set(re.findall(r"bool ((?:pos|neg)edge_\w+)\(\) const", header))
    evaluation = header.partition("bool p_top::eval(")[2]
    if (edges == {"posedge_p_clk"} and "bool converged = true;" in evaluation
            and not re.search(r"(?<!\w)p_clk\b", evaluation)):
        return _ONE_EVALUATION
    return _BOTH_EDGES


def _headers(yosys: toolchain.Tool) -> Path:
    """Folder of CXXRTL's own headers, which come with Yosys."""
    inside = "include/backends/cxxrtl/runtime"
    return toolchain.yosys_files(yosys, f"{inside}/cxxrtl/cxxrtl.h",
                                 "the headers of CXXRTL") / inside

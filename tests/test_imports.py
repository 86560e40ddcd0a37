"""Imports go one way: walks the source and fails on an arrow that runs back.

Between packages, boards (data) <- flightrtl <- {train, sim} <- {benchmarks, tests}; inside
flightrtl, formats <- model <- {modelfile, golden}; formats, model <- gateware <- planner <- build.
"""

import ast
import functools
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PACKAGES = {  # who may import what, of our own
    "flightrtl": {"flightrtl"},
    "train": {"train", "flightrtl"},
    "sim": {"sim", "flightrtl"},
    "benchmarks": {"benchmarks", "sim", "train", "flightrtl"},
    "tests": {"tests", "benchmarks", "sim", "train", "flightrtl"},
}

# The floors of flightrtl, from the ground up. A module may import from its own floor and from
# those below. A folder's modules are all on its floor.
FLOORS = [
    {"errors", "files", "progress"},
    {"formats", "shiftadd", "blockram"},
    {"model"},
    {"rules", "container", "models", "check", "document", "modelfile", "golden", "datasets",
     "samples", "boards", "loadable", "protocol"},
    {"gateware"},
    {"planner"},
    {"top", "toolchain", "implement", "cache", "report", "plots", "testbench", "export", "request",
     "publish", "summary", "flow", "host", "build", "blank", "contents", "explore", "reuse"},
]

# Modules that stand for more than their name says: what runs without them has to stay runnable.
LATE = {"torch", "sklearn", "scipy", "PIL", "pooch", "matplotlib", "serial", "rich",
        "distributed", "cv2", "spidev"}


def modules(package):
    return sorted((ROOT / package).rglob("*.py"))


@functools.cache
def imported(path):
    """Absolute names of what a file imports, each with its line and whether at the top level."""
    found = []
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else ()
            stem = ".".join([*base, *([node.module] if node.module else [])])
            # `from package import module` imports a module too.
            names = [f"{stem}.{alias.name}" for alias in node.names]
        else:
            continue
        found += [(name, node.lineno, id(node) in top) for name in names]
    return found


def floor(name):
    """The floor of `flightrtl.NAME...`, or None for the package itself."""
    parts = name.split(".")
    if len(parts) < 2:
        return None
    return next((n for n, names in enumerate(FLOORS) if parts[1] in names), None)


@pytest.mark.parametrize("package", PACKAGES)
def test_packages(package):
    wrong = [f"{path.relative_to(ROOT)}:{line}: {name}"
             for path in modules(package) for name, line, _ in imported(path)
             if name.split(".")[0] in PACKAGES and name.split(".")[0] not in PACKAGES[package]]
    assert not wrong, wrong


def test_nobody_imports_the_boards():
    wrong = [f"{path}:{line}" for package in PACKAGES for path in modules(package)
             for name, line, _ in imported(path) if name.split(".")[0] == "boards"]
    assert not wrong, wrong
    assert not list((ROOT / "boards").rglob("*.py")), "boards are data"


def test_every_module_of_flightrtl_has_a_floor():
    known = set().union(*FLOORS)
    there = {path.relative_to(ROOT / "flightrtl").with_suffix("").parts[0]
             for path in modules("flightrtl")} - {"__init__"}
    assert there <= known, f"put {sorted(there - known)} on a floor of tests/test_imports.py"


def test_floors_of_flightrtl():
    wrong = []
    for path in modules("flightrtl"):
        own = floor(".".join(path.relative_to(ROOT).with_suffix("").parts))
        if own is None:
            continue  # the package's __init__
        for name, line, _ in imported(path):
            other = floor(name) if name.startswith("flightrtl.") else None
            if other is not None and other > own:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {name}")
    assert not wrong, wrong


def test_flightrtl_needs_only_its_dependencies():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    allowed = {"amaranth", "amaranth_boards", "numpy", "safetensors", "flightrtl"}
    assert len(project["dependencies"]) == 4
    for path in modules("flightrtl"):
        for name, line, top in imported(path):
            root = name.split(".")[0]
            if root in sys.stdlib_module_names or root in allowed:
                continue
            assert root in LATE - {"torch"}, f"{path}:{line}: {name}"
            assert not top, f"{path}:{line}: {name} belongs to an extra: import it where it is used"


def test_the_walk_sees_an_arrow_that_runs_back(tmp_path, monkeypatch):
    folder = tmp_path / "flightrtl" / "gateware"
    folder.mkdir(parents=True)
    (folder / "bad.py").write_text(
        "from ..planner import plan\nfrom .. import flow\n\n\ndef late():\n    import torch\n")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert imported(folder / "bad.py") == [
        ("flightrtl.planner.plan", 1, True), ("flightrtl.flow", 2, True), ("torch", 6, False)]
    with pytest.raises(AssertionError, match=r"bad.py:1: flightrtl.planner.plan"):
        test_floors_of_flightrtl()

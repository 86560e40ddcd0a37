"""What the file can say and the gateware cannot build is refused, all of it, by every command."""


import numpy as np
import pytest

from flightrtl import boards, build, flow, modelfile, planner
from flightrtl.errors import BuildError, run_cli
from flightrtl.gateware import Network, require_supported, unsupported
from flightrtl.model import Model
from flightrtl.modelfile import ModelError
from sim import __main__ as sim

from .models import random_model, residual_model


@pytest.fixture
def residual() -> Model:
    return residual_model()


NAMED = ["layer 'add': there is no hardware for additions yet",
         "layer 'pool': it takes the result of 'conv', not that of the layer before, 'add'",
         "layer 'both': there is no hardware for additions yet"]


def test_all_layers_without_hardware_are_named_with_a_hint(residual):
    found = unsupported(residual)
    assert [problem[:len(start)] for problem, start in zip(found, NAMED, strict=True)] == NAMED
    assert all(": train " in problem for problem in found)


def test_what_can_be_built_is_not_refused():
    model = random_model(np.random.default_rng(3))
    assert unsupported(model) == []
    require_supported(model)


def test_components_refuse_it(residual):
    for function in (lambda: require_supported(residual), lambda: Network(residual, {}),
                     lambda: planner.plan(residual, boards.load("ice40"))):
        with pytest.raises(ModelError, match="no hardware can be built for model 'residual'"):
            function()


@pytest.mark.parametrize("options", [["--estimate"], ["--estimate", "--json"], [],
                                     ["--verilog", "never.v"]])
def test_build_ends_with_the_list(residual, tmp_path, capsys, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    ends_with_the_list(build.main, "--model", residual, tmp_path, capsys, options)


def test_no_tool_is_needed_to_say_so(residual, tmp_path, capsys, monkeypatch):
    def find(name):
        raise BuildError(f"{name} is missing")

    monkeypatch.setattr(flow, "find", find)
    ends_with_the_list(build.main, "--model", residual, tmp_path, capsys,
                       ["--output", str(tmp_path / "out")])


@pytest.mark.parametrize("options", [[], ["--json"], ["--level", "bitstream"],
                                     ["--trace-layers", "--images", "1"]])
def test_simulation_ends_with_the_list(residual, tmp_path, capsys, options):
    ends_with_the_list(sim.main, None, residual, tmp_path, capsys, options)


def ends_with_the_list(main, option, model, folder, capsys, options):
    path = folder / "residual.safetensors"
    modelfile.save(model, path)
    arguments = [*([option] if option else []), str(path), *options]
    with pytest.raises(SystemExit) as status:
        run_cli(lambda: main(arguments))
    assert status.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    lines = [line for line in output.err.splitlines() if line.startswith("  - ")]
    assert [line[4:4 + len(start)] for line, start in zip(lines, NAMED, strict=True)] == NAMED
    assert list(folder.iterdir()) == [path]

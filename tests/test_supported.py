"""What the file can say and the gateware cannot build is refused, all of it, by every command."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from flightrtl import boards, build, explore, flow, modelfile, planner
from flightrtl.errors import BuildError, run_cli
from flightrtl.formats import ActivationFormat
from flightrtl.gateware import Folding, Network, require_supported, unsupported
from flightrtl.model import INPUT, MaxPool, Model, TensorType, WeightedLayer
from flightrtl.modelfile import ModelError
from flightrtl.planner.cost import system_costs
from flightrtl.protocol import Frame
from sim import __main__ as sim
from sim import serve

from .models import (
    random_graph,
    random_images,
    random_layer,
    random_map,
    random_model,
    residual_model,
)
from .test_network import simulate


@pytest.fixture
def residual(monkeypatch) -> Model:
    """A model that is refused: whatever a file can say today, there is hardware for."""
    monkeypatch.setattr("flightrtl.gateware.network.unsupported", lambda model: [
        f"{problem}: train another" for problem in NAMED])
    return residual_model()


NAMED = ["layer 'add': there is no hardware for it", "layer 'dense': nor for this"]


def test_all_that_a_file_can_say_can_be_built():
    """Branches, additions and weights of every kind."""
    model = residual_model()
    for one in (model, *(random_graph(np.random.default_rng(seed)) for seed in range(10)),
                random_model(np.random.default_rng(3))):
        assert unsupported(one) == []
        require_supported(one)
    foldings = {layer.name: Folding(1, 1) for layer in model.layers
                if isinstance(layer, WeightedLayer)}
    simulate(Network(model, foldings), random_images(np.random.default_rng(4), model, 2), stall=0.3)


def test_a_layer_of_no_known_type_is_named_with_a_hint():
    model = residual_model()
    strange = SimpleNamespace(name="odd", inputs=("both",))
    model = Model("odd", model.input, (*model.layers[:-1], strange, model.layers[-1]))
    assert unsupported(model) == ["layer 'odd': there is no hardware for layers of the type "
                                  "SimpleNamespace: train a network without it"]
    with pytest.raises(ModelError, match="no hardware can be built for model 'odd'"):
        Network(model, {})


def test_maps_that_are_too_long_are_named_before_any_work():
    """Every one of them; counters of the hardware end before those of a file."""
    image = TensorType((1, 70_000, 1), ActivationFormat(4))
    pool = MaxPool(name="pool", inputs=(INPUT,), kernel=(1, 1), stride=(1, 1))
    rng = np.random.default_rng(0)
    dense = random_layer(rng, "convolution", image, random_map(rng, image, 1), name="last",
                         inputs=("half",), kernel=(1, 1), stride=(1, 1), padding=(0,) * 4, k=(1,))
    half = replace(pool, name="half", inputs=("pool",), kernel=(1, 2), stride=(1, 2))
    model = Model("long", image, (pool, half, dense))
    problems = unsupported(model)
    assert problems == [
        f"{what} has 1 x 70000 x 1 values: hardware takes up to 65,536 rows, columns and "
        "channels: use smaller images or fewer filters"
        for what in ("the image", "the result of layer 'pool'")]
    with pytest.raises(ModelError, match="no hardware can be built for model 'long'"):
        planner.plan(model, boards.load("ice40"))


def large_model(shape=(256, 256, 1)) -> Model:
    """Its image has more bytes than the link takes."""
    image = TensorType(shape, ActivationFormat(8))
    pool = MaxPool(name="pool", inputs=(INPUT,), kernel=shape[:2], stride=shape[:2])
    rng = np.random.default_rng(0)
    small = TensorType((1, 1, 1), ActivationFormat(8))
    dense = random_layer(rng, "dense", small, random_map(rng, small, 2), name="last",
                         inputs=("pool",), k=(1, 1))
    return Model("large", image, (pool, dense))


@pytest.mark.parametrize("command", [
    (build.main, "--model"), (build.main, "--estimate", "--model"), (explore.main, "--model"),
    (sim.main, "--level", "bitstream"), (serve.main,)])
def test_a_model_too_large_for_the_link_is_refused_before_any_work(command, tmp_path, capsys,
                                                                   monkeypatch):
    monkeypatch.chdir(tmp_path)
    modelfile.save(large_model(), tmp_path / "large.safetensors")
    main, *arguments = command
    with pytest.raises(SystemExit) as status:
        run_cli(lambda: main([*arguments, "large.safetensors"]))
    assert status.value.code == 2
    output = capsys.readouterr()
    assert output.err == (
        "error: no design for a board can be built for model 'large' (flightrtl.golden computes "
        "it):\n  - an image has 65,536 bytes, and the link between host and board takes up to "
        "65,535: use smaller images, or put the network into a design of your own "
        "(docs/embed.md)\n")
    assert output.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["large.safetensors"]


def test_the_link_is_listed_with_the_other_problems():
    with pytest.raises(ModelError) as error:
        require_supported(large_model((1, 70_000, 1)), link=True)
    assert [problem.split(":")[0] for problem in error.value.problems] == [
        "the image has 1 x 70000 x 1 values",
        "an image has 70,000 bytes, and the link between host and board takes up to 65,535"]
    with pytest.raises(ModelError, match="no host can talk to model 'large'"):
        Frame.of(large_model())


def test_a_network_alone_needs_no_link(tmp_path, monkeypatch):
    def find(name):
        raise BuildError("as far as this")

    model = large_model()
    require_supported(model)
    assert set(system_costs(model, boards.load("ecp5"))) == {"clock", "argmax"}
    assert "link" in system_costs(large_model((255, 257, 1)), boards.load("ecp5"))
    modelfile.save(model, tmp_path / "large.safetensors")
    monkeypatch.setattr(flow, "find", find)
    with pytest.raises(BuildError, match="as far as this"):
        build.main(["--model", str(tmp_path / "large.safetensors"), "--verilog", "never.v"])


def test_as_many_terms_as_a_file_can_have():
    """255 for a filter."""
    rng = np.random.default_rng(0)
    image = TensorType((1, 1, 1), ActivationFormat(3))
    layer = random_layer(rng, "dense", image, random_map(rng, image, 2), name="last", k=(255, 1))
    model = Model("deep", image, (layer,))
    simulate(Network(model, {"last": Folding(4, 1)}), random_images(rng, model, 2))


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

"""Formats for each layer by Bayesian optimisation, and pruned filters."""

import dataclasses
import json
import tomllib

import numpy as np
import pytest
import torch

from flightrtl import boards, datasets, golden, modelfile, planner
from flightrtl.errors import BuildError, UserError
from flightrtl.formats import BinaryFormat, FixedFormat, TermFormat
from flightrtl.gateware import network as gateware_network
from flightrtl.modelfile import ModelError
from train import __main__ as train_command
from train.convert import convert
from train.data import as_tensors
from train.export import compare, export, model_bits
from train.methods import LayerSettings
from train.mixed import __main__ as command
from train.mixed.cost import BoardCost, stored_bits
from train.mixed.recipefile import toml
from train.mixed.search import Goal, Search
from train.mixed.space import FORMATS, LayerShape, Space, select, shapes
from train.mixed.trial import Judge, Verdict, merged
from train.networks import NETWORKS
from train.quantizers.fixed import FixedQuantizer
from train.quantizers.sparse import SparseQuantizer, weakest
from train.recipe import RECIPES, Recipe, load_recipe
from train.trainer import Trainer

BASE = {"dataset": "digits", "network": "digits", "batch_size": 64, "distillation": 0.5}
LAYERS = (LayerShape("first", 8, 9, False), LayerShape("second", 16, 72, False),
          LayerShape("sum", 0, 0, False), LayerShape("last", 10, 16, True))


@pytest.fixture(scope="module")
def data():
    return as_tensors(datasets.load("digits", split="train"), datasets.load("digits"))


@pytest.fixture(scope="module")
def float_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("float") / "float.safetensors"
    assert train_command.main(["--dataset", "digits", "--network", "digits", "--method", "float",
                               "--epochs", "8", "--output", str(path)]) == 0
    return path


def folded(data, settings, network="digits", layers=None):
    item = datasets.DATASETS["digits"]
    result = convert(NETWORKS[network].make(item.input, item.classes), item.input, settings,
                     layers=layers)
    result.fold(data.images[:200].float())
    return result


# Pruned filters.

@pytest.mark.parametrize(("share", "expected"), [(0, 0), (0.29, 29), (0.5, 50), (0.999, 99)])
def test_share_of_pruned_filters(share, expected):
    weight = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    pruned = weakest(weight, share)
    assert int(pruned.sum()) == expected
    if expected:
        norms = weight.norm(dim=1)
        assert norms[pruned].max() <= norms[~pruned].min()


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_wrong_share(share):
    with pytest.raises(ValueError, match="0 to less than 1"):
        SparseQuantizer(FixedQuantizer(4, FixedFormat(4), 0), share)
    with pytest.raises(ValueError, match="0 to less than 1"):
        weakest(torch.ones(4, 1), share)


def test_a_pruned_filter_is_zero_has_no_slot_and_no_gradient():
    weight = torch.tensor([[0.5, -0.25], [0.1, 0.1], [1.0, 0.75]], requires_grad=True)
    quantizer = SparseQuantizer(FixedQuantizer(3, FixedFormat(4), 3), 0.4)
    quantizer.fold(weight)
    scale = quantizer.scale(weight)
    values = quantizer(weight, scale)
    values.sum().backward()
    assert weight.grad.tolist() == [[1, 1], [0, 0], [1, 1]]
    slots, k = quantizer.slots(weight, scale)
    assert k.tolist() == [1, 0, 1]
    torch.testing.assert_close(torch.stack(slots), values[[0, 2]])
    assert quantizer.describe(weight, scale)["k_histogram"] == {"0": 1, "1": 2}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_trains_pruned_and_exports_exactly(data, float_file, name):
    table = dict(FORMATS[name].table)
    recipe = Recipe(**BASE, method="mixed", epochs=2, float_share=0.0, layers={
        "conv1": table | {"sparsity": 0.25, "activation_bits": 5}, "dense1": table})
    trainer = Trainer(recipe, data, init=float_file)
    trainer.run_epoch()
    trainer.run_epoch()
    model = export(trainer.network, "pruned", {})
    mismatches, logits = compare(trainer.network, model, data.test_images)
    assert mismatches == 0
    assert np.ptp(logits) > 0
    conv, dense = model.layers[0], model.layers[-1]
    assert conv.k.count(0) == 2
    assert 0 not in dense.k
    assert conv.output.bits == 5
    # The bits that the search counts with are those of the model (flightnn: at most).
    bits = Space(shapes(trainer.network), (FORMATS[name],)).bits({"conv1.sparsity": 2})
    assert bits == {"conv1": 0, "dense1": 0} | bits
    assert model_bits(model) <= sum(bits.values())
    assert model_bits(model) == sum(bits.values()) or table["method"] == "flightnn"


def test_sparsity_survives_a_checkpoint(data, float_file, tmp_path):
    recipe = Recipe(**BASE, method="fixed", epochs=2, float_share=0.0, sparsity=0.25)
    first, second = (Trainer(recipe, data, init=float_file) for _ in range(2))
    first.run_epoch()
    first.save(tmp_path / "half")
    second.restore(tmp_path / "half")
    quantizers = [trainer.network.weighted[0].quantizer for trainer in (first, second)]
    found = [each.pruned for each in quantizers if isinstance(each, SparseQuantizer)]
    assert len(found) == 2
    assert torch.equal(found[0], found[1])
    assert int(found[0].sum()) == 2


@pytest.mark.parametrize(("layers", "text"), [
    ({"conv1": {"sparsity": 1.0}}, "layers.conv1.sparsity must be 0 to 0.95"),
    ({"conv1": {"sparsity": "half"}}, "layers.conv1.sparsity must be a number"),
    ({"conv1": {"sparsity": True}}, "layers.conv1.sparsity must be a number"),
    ({"conv1": {"weight_bits": 4.0}}, "layers.conv1.weight_bits must be an integer"),
])
def test_wrong_sparsity_in_a_recipe(layers, text):
    with pytest.raises(UserError, match=text):
        Recipe(**BASE, layers=layers)


# The space.

def test_formats_are_in_the_order_of_their_bits():
    bits = [choice.bits for choice in FORMATS.values()]
    assert bits == sorted(bits)
    assert [bits[0], bits[-1]] == [1, 8]
    assert {name for name, choice in FORMATS.items() if not choice.in_hardware} == {
        "nbq1", "binary", "fixed4", "fixed8"}


def test_formats_are_what_they_say(data):
    formats = {name: folded(data, LayerSettings(), layers={
        "conv1": dataclasses.replace(LayerSettings(), **choice.table)}).weighted[0].quantizer.format
        for name, choice in FORMATS.items()}
    assert formats["nbq1"] == formats["binary"] == BinaryFormat()
    assert formats["nbq3"] == formats["lightnn1-e2"] == TermFormat(2)
    assert formats["fixed8"] == FixedFormat(8)


def test_tables_and_bits():
    space = Space(LAYERS, (FORMATS["nbq1"], FORMATS["fixed4"]), (3, 6))
    chosen = {"first.format": 1, "second.format": 0, "second.sparsity": 4,
              "first.activation_bits": 5}
    assert space.tables(chosen) == {
        "first": {"method": "fixed", "weight_bits": 4, "activation_bits": 5},
        "second": {"method": "nbq", "weight_bits": 1, "sparsity": 0.5, "activation_bits": 3},
        "sum": {"activation_bits": 3}, "last": {"method": "nbq", "weight_bits": 1}}
    assert space.bits(chosen) == {"first": 4 * 72, "second": 8 * 72, "last": 160}


def test_only_what_can_differ_is_a_parameter():
    class Highest:
        def suggest_int(self, name, low, high):
            assert low < high
            return high
    assert Space(LAYERS, (FORMATS["nbq1"],), sparsity=(0.0,)).suggest(Highest()) == {}
    assert Space(LAYERS, (FORMATS["nbq1"], FORMATS["nbq2"]), (4, 5)).suggest(Highest()) == {
        "first.format": 1, "first.sparsity": 4, "first.activation_bits": 5, "second.format": 1,
        "second.sparsity": 4, "second.activation_bits": 5, "sum.activation_bits": 5,
        "last.format": 1}


@pytest.mark.parametrize("budget", [None, 3000, 1800])
def test_starts_keep_to_the_budget(budget):
    space = Space(LAYERS, tuple(FORMATS.values()), (2, 8))
    starts = space.starts(20, 1, budget)
    assert len(starts) == 20
    assert starts == space.starts(20, 1, budget)
    assert len({json.dumps(each) for each in starts}) > 10
    if budget is not None:
        assert all(sum(space.bits(each).values()) <= budget for each in starts)


def test_the_first_start_gives_large_layers_few_bits():
    space = Space(LAYERS, tuple(FORMATS.values()))
    first = space.starts(1, 0, 3000)[0]
    bits = space.bits(first)
    assert sum(bits.values()) <= 3000
    assert bits["second"] / 1152 < bits["first"] / 72
    assert bits["second"] / 1152 < bits["last"] / 160
    assert not any(value for name, value in first.items() if name.endswith("sparsity"))


def test_a_start_that_no_format_brings_into_the_budget_is_left_at_the_least():
    space = Space(LAYERS, (FORMATS["nbq1"], FORMATS["nbq2"]), sparsity=(0.0,))
    assert set(space.starts(1, 0, 10)[0].values()) == {0}


@pytest.mark.parametrize(("names", "hardware", "text"), [
    (["nbq9"], False, "no weight format 'nbq9'; there are binary, nbq1"),
    (["fixed4"], True, "no hardware for the weight format 'fixed4'"),
])
def test_wrong_formats(names, hardware, text):
    with pytest.raises(UserError, match=text):
        select(names, hardware=hardware)


def test_selected_formats_are_in_order():
    assert [c.name for c in select(["fixed8", "nbq1"], hardware=False)] == ["nbq1", "fixed8"]
    assert len(select([], hardware=True)) == len(FORMATS) - 4


@pytest.mark.parametrize("bits", [(0, 4), (5, 4), (4, 17)])
def test_wrong_activation_bits(bits):
    with pytest.raises(UserError, match="activation bits"):
        Space(LAYERS, tuple(FORMATS.values()), bits)


# Costs.

def test_stored_bits(data):
    model = export(folded(data, LayerSettings(method="lightnn1", scale_span=0)), "m", {})
    bits = stored_bits(model)
    assert bits["weights"] == model_bits(model) == 4 * (8 * 9 + 10 * 8 * 9)
    widths = [max(int(value if value >= 0 else ~value).bit_length() + 1 for value in layer.bias)
              for layer in (model.layers[0], model.layers[-1])]
    assert bits["rest"] == 8 * widths[0] + 10 * widths[1] + 2 * 5


def test_board_costs_are_the_planners(data):
    board = boards.load("icebreaker")
    network = folded(data, LayerSettings(method="lightnn1", exponent_bits=2, activation_bits=4))
    wide = folded(data, LayerSettings(method="lightnn2"))
    model = export(network, "m", {})
    assert BoardCost(board, "cycles")(network) == planner.plan(model, board).cycles_per_inference
    luts = BoardCost(board, "luts", 2000.0)
    assert luts(network) == planner.plan(model, board, target_rate=2000).cost.lut4 < luts(wide)
    with pytest.raises(BuildError):
        BoardCost(board, "luts", 1e9)(network)
    with pytest.raises(ValueError, match="cycles and luts"):
        BoardCost(board, "watts")


def test_what_the_gateware_cannot_build_is_refused(data, monkeypatch):
    cost = BoardCost(boards.load("icebreaker"), "cycles")
    network = folded(data, LayerSettings(method="lightnn1"), "resnet8")
    cost.check(network)     # additions can be built
    monkeypatch.setattr(gateware_network, "unsupported", lambda model: ["layer 'x': no hardware"])
    with pytest.raises(ModelError, match="no hardware"):
        cost.check(network)


# The search, with judges that need no training.

def bits_needed(tables):
    """The first layer needs many bits, the second few."""
    def of(name):
        return next(choice.bits for choice in FORMATS.values()
                    if all(tables[name].get(key) == value for key, value in choice.table.items()))
    found = 4.0 / of("first") + 0.2 / of("second") + 0.5 / of("last") + sum(
        tables[name].get("sparsity", 0) for name in ("first", "second"))
    return Verdict(found, 0.9, found / 100)


def search(file, goal, seed=0, judge=None, cost=None, request=None):
    space = Space(LAYERS, tuple(FORMATS.values()))
    return Search(space, goal, file=file, seed=seed, request=request or {"what": "test"},
                  cost=cost or (lambda chosen: float(sum(space.bits(chosen).values()))),
                  judge=judge or (lambda tables, report: bits_needed(tables)),
                  starts=space.starts(5, seed, goal.budget))


def test_the_search_finds_where_bits_matter(tmp_path):
    budget = 2500.0
    study = search(tmp_path / "s", Goal(budget))
    for _ in range(25):
        found = study.step()
        assert found.cost <= budget
    best = study.best
    assert best == min(study.found, key=lambda each: each.verdict.divergence)
    tables = study.space.tables(best.chosen)
    bits = study.space.bits(best.chosen)
    assert bits["first"] / 72 >= 4          # bits of a weight
    assert bits["second"] / 1152 <= 2
    uniform = bits_needed(study.space.tables(dict.fromkeys(best.chosen, 0)))
    assert best.verdict.divergence < uniform.divergence / 2
    assert "sparsity" not in tables["first"]


def test_without_a_budget_the_cheapest_that_loses_little(tmp_path):
    study = search(tmp_path / "s", Goal(loss=0.015))
    for _ in range(25):
        study.step()
    good = [each for each in study.found if each.verdict.lost <= 0.015]
    assert study.best == min(good, key=lambda each: each.cost)
    assert len(good) < 25


def test_a_resumed_search_is_the_same_search(tmp_path):
    whole = search(tmp_path / "whole", Goal(2500.0), seed=3)
    for _ in range(9):
        whole.step()

    calls = []

    def interrupted(tables, report):
        calls.append(tables)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return bits_needed(tables)
    part = search(tmp_path / "part", Goal(2500.0), seed=3, judge=interrupted)
    for _ in range(4):
        part.step()
    with pytest.raises(KeyboardInterrupt):
        part.step()
    again = search(tmp_path / "part", Goal(2500.0), seed=3)
    assert len(again.found) == 4
    while len(again.found) < 9:
        again.step()
    assert again.found == whole.found


def test_another_search_is_not_gone_on_with(tmp_path):
    search(tmp_path / "s", Goal(2500.0)).step()
    with pytest.raises(UserError, match="another search .what differ"):
        search(tmp_path / "s", Goal(2500.0), request={"what": "else"})


def test_a_damaged_study(tmp_path):
    (tmp_path / "s").write_text('{"not": "a study"}\n')
    with pytest.raises(UserError, match="not a study, or damaged"):
        search(tmp_path / "s", Goal(2500.0))


def test_choices_that_cannot_be_built(tmp_path):
    def never(chosen):
        raise BuildError("it does not fit")
    with pytest.raises(BuildError, match="50 choices in a row.*it does not fit"):
        search(tmp_path / "s", Goal(), cost=never).step()
    with pytest.raises(BuildError, match="the budget is 10"):
        search(tmp_path / "t", Goal(10.0)).step()


def test_a_choice_that_diverges_is_passed_over(tmp_path):
    calls = []

    def judge(tables, report):
        calls.append(tables)
        if len(calls) == 1:
            raise BuildError("training diverged")
        return bits_needed(tables)
    found = search(tmp_path / "s", Goal(2500.0), judge=judge).step()
    assert len(calls) == 2
    assert found.number == 1


# Judging, and the command.

def test_a_judge_follows_the_float_network(data, float_file):
    recipe = Recipe(**BASE, method="mixed", float_share=0.0)
    rounded = Judge(recipe, data, float_file, steps=0, images=300)
    trained = Judge(recipe, data, float_file, steps=60, images=300)
    assert rounded.float_top1 == trained.float_top1 > 0.9
    fine, coarse = ({name: dict(FORMATS[each].table) for name in ("conv1", "dense1")}
                    for each in ("fixed8", "nbq2"))
    assert rounded(fine).divergence < 0.02
    assert rounded(fine).divergence < rounded(coarse).divergence
    after = trained(coarse)
    assert after.divergence < rounded(coarse).divergence
    assert after == trained(coarse)
    assert after.lost == pytest.approx(trained.float_top1 - after.top1)
    with pytest.raises(UserError, match="--images 1400"):
        Judge(recipe, data, float_file, steps=1, images=1400)


def test_merged_keeps_what_a_layer_says_of_its_own():
    recipe = Recipe(**BASE, layers={"conv1": {"scale_span": 1, "weight_bits": 7}})
    result = merged(recipe, {"conv1": {"method": "fixed", "weight_bits": 3}})
    assert result.layers == {"conv1": {"scale_span": 1, "method": "fixed", "weight_bits": 3}}
    assert (result.method, result.float_share) == ("mixed", 0.0)


def test_toml_is_read_back():
    values = {"text": 'a "quoted" word', "flag": False, "number": 1e-05, "whole": 3,
              "layers": {"one": {"a": 1}, "two": {"b": 0.5}}, "lambda_layers": {"one": 2.0}}
    assert tomllib.loads(toml(values)) == values


def test_from_the_command_line_to_a_model(tmp_path, float_file, capsys):
    output = tmp_path / "mix.toml"
    words = ["--dataset", "digits", "--network", "digits", "--init", str(float_file), "--budget",
             "10x", "--steps", "30", "--images", "300", "--output", str(output), "--json"]
    assert command.main([*words, "--trials", "3"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["trials"] == 3
    assert 10 <= result["compression_of_all"] < result["compression"]
    assert result["cost"] <= 32 * result["weights"] / 10
    assert load_recipe(str(output))["layers"] == result["layers"]

    with pytest.raises(UserError, match=r"another search .steps differ"):
        command.main([*words, "--trials", "4", "--resume", "--steps", "31"])
    assert command.main([*words, "--trials", "4", "--resume"]) == 0
    more = json.loads(capsys.readouterr().out)
    assert more["trials"] == 4
    log = json.loads(output.with_suffix(".json").read_text())
    assert len(log["trials"]) == 4
    assert log["trials"][more["trial"] - 1]["layers"] == more["layers"]

    model_file = tmp_path / "net.safetensors"
    assert train_command.main(["--recipe", str(output), "--init", str(float_file), "--epochs", "4",
                               "--output", str(model_file), "--json"]) == 0
    trained = json.loads(capsys.readouterr().out)
    assert trained["model_bits"] == more["weight_bits"]     # a 22x recipe makes a 22x model
    assert trained["mismatches"] == 0
    model = modelfile.load(model_file)
    assert golden.top1(model, *datasets.load("digits")) == trained["top1"] > 0.5
    assert model.provenance["method"] == "mixed"


def test_on_a_board(tmp_path, float_file, capsys):
    assert command.main([
        "--dataset", "digits", "--network", "digits", "--init", str(float_file), "--objective",
        "cycles", "--board", "icebreaker", "--loss", "0.5", "--steps", "10", "--trials", "2",
        "--images", "200", "--output", str(tmp_path / "m.toml"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    recipe = Recipe.from_dict(load_recipe(str(tmp_path / "m.toml")), "m.toml")
    assert 2 <= recipe.layer_settings("conv1").activation_bits <= 8
    assert result["lost"] <= 0.5
    assert result["cost"] >= 64


@pytest.mark.parametrize(("words", "text"), [
    (["--trials", "0"], "--trials 0"),
    (["--steps", "-1"], "--steps -1"),
    (["--loss", "2"], "--loss 2"),
    (["--objective", "cycles"], "name it with --board"),
    (["--board", "icebreaker"], "a size needs none"),
    (["--rate", "5"], "--rate is for"),
    (["--device", "gpu"], "PyTorch cannot use it"),
    (["--output", "net.safetensors"], "FILE.toml"),
    (["--output", "/no/such/folder/x.toml"], "no folder"),
    (["--budget", "many"], "such as 22x"),
    (["--budget", "nan"], "above 0"),
    (["--formats", "nbq1,int3"], "'int3'"),
    (["--activation-bits", "few"], "2-8"),
    (["--network", "resnet8", "--objective", "cycles", "--board", "nowhere"], "network 'digits'"),
    (["--resume"], "no study to resume"),
])
def test_wrong_requests(tmp_path, float_file, words, text):
    usual = ["--dataset", "digits", "--network", "digits", "--init", str(float_file), "--images",
             "100", "--output", str(tmp_path / "x.toml")]
    with pytest.raises(UserError, match=text):
        command.main([*usual, *words])


def test_no_float_network():
    with pytest.raises(UserError, match="--init FILE"):
        command.main(["--dataset", "digits", "--network", "digits", "--output", "x.toml"])


def test_no_trial_is_good_enough(tmp_path, float_file):
    with pytest.raises(BuildError, match="none of 1 trials loses 0 % or less"):
        command.main(["--dataset", "digits", "--network", "digits", "--init", str(float_file),
                      "--loss", "0", "--steps", "0", "--trials", "1", "--formats", "nbq1",
                      "--images", "300", "--output", str(tmp_path / "x.toml")])


def test_the_recipes_are_sound():
    for path in RECIPES.glob("cifar10-mixed*.toml"):
        recipe = Recipe.from_dict(load_recipe(path.stem), path.stem)
        assert (recipe.method, recipe.float_share) == ("mixed", 0.0)

"""The table of accuracies: rows from logs, verdicts, page and pictures."""

import dataclasses
import doctest
import json

import pytest

from benchmarks import (
    accuracy_claims,
    accuracy_page,
    accuracy_plots,
    accuracy_rows,
    accuracy_table,
    published,
)
from flightrtl import modelfile
from flightrtl.errors import UserError
from train import __main__ as command


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Logs of real, short runs: a float network and two that start from it."""
    folder = tmp_path_factory.mktemp("logs")
    start = str(folder / "float.safetensors")
    common = ["--dataset", "digits", "--network", "digits", "--epochs", "2", "--batch-size", "256"]
    command.main([*common, "--method", "float", "--output", start])
    for seed in (0, 1):
        command.main([*common, "--init", start, "--seed", str(seed),
                      "--output", str(folder / f"flightnn-{seed}.safetensors")])
    return folder


@pytest.fixture
def log(logs, tmp_path):
    """A log that may be changed, beside its model."""
    for suffix in (".json", ".safetensors"):
        (tmp_path / f"net{suffix}").write_bytes((logs / f"flightnn-0{suffix}").read_bytes())
    return tmp_path / "net.json"


def changed(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def group(row, count=1, **changes):
    """A group of ``count`` runs like ``row``."""
    rows = [dataclasses.replace(row, **changes, seed=seed) for seed in range(count)]
    return accuracy_rows.Group(tuple(rows))


@pytest.mark.parametrize("module", [accuracy_page, accuracy_plots, accuracy_rows])
def test_examples(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_a_row_says_what_its_run_did(logs):
    row = accuracy_rows.from_log(logs / "flightnn-1.json")
    content = json.loads((logs / "flightnn-1.json").read_text())
    model = modelfile.load(logs / "flightnn-1.safetensors")
    assert (row.name, row.dataset, row.network, row.method) == (
        "flightnn-1", "digits", "digits", "flightnn")
    assert (row.seed, row.epochs, row.images, row.mismatches) == (1, 2, 360, 0)
    assert row.top1 == row.accuracy == model.provenance["top1"]
    assert row.float_top1 == json.loads((logs / "float.json").read_text())["result"]["top1"]
    assert row.mean_k == pytest.approx(content["result"]["mean_k"])
    assert row.model_bits == sum(
        layer.terms.size * layer.format.code_bits for layer in model.layers
        if hasattr(layer, "terms"))
    bits = content["recipe"]["exponent_bits"]
    assert row.formats == {"weights": ["terms"], "exponent_bits": [bits],
                           "weight_bits": [bits + 1],
                           "activation_bits": [content["recipe"]["activation_bits"]]}
    for name, histogram in content["result"]["layers"].items():
        assert row.layers[name]["k_histogram"] == {
            k: count for k, count in histogram.items() if count}


def test_a_float_network_has_no_integers(logs):
    row = accuracy_rows.from_log(logs / "float.json", "other")
    assert (row.name, row.top1, row.mean_k, row.mismatches) == ("other", None, None, None)
    assert row.model_bits == 32 * row.weights
    assert row.accuracy == row.float_top1


@pytest.mark.parametrize(("change", "message"), [
    ({"result": None}, "this run has not ended"),
    ({"result": {"mismatches": 3}}, "3 logits of the integer model differ"),
    ({"epochs": {1: {"loss": float("nan")}}}, "epoch 2 loss is not a finite number"),
    ({"epochs": {0: {"layers": {"conv1": {"mean_k": float("inf")}}}}},
     "epoch 1 layers conv1 mean_k is not"),
    ({"recipe": {"epochs": 3}}, "2 epochs in a log of 3"),
    ({"result": {"top1": 0.5}}, "not of the same run"),
])
def test_logs_that_are_no_result(log, change, message):
    def apply(content, change):
        for key, value in change.items():
            if isinstance(value, dict):
                apply(content[key], value)
            else:
                content[key] = value
    changed(log, lambda content: apply(content, change))
    with pytest.raises(UserError, match=message):
        accuracy_rows.from_log(log)


def test_files_that_are_no_log(log):
    with pytest.raises(UserError, match="there is no such log"):
        accuracy_rows.from_log(log.with_name("missing.json"))
    log.with_suffix(".safetensors").unlink()
    with pytest.raises(UserError, match=r"net\.safetensors is not beside it"):
        accuracy_rows.from_log(log)
    for text in ("{", "[]", "{}", '{"recipe": 3, "epochs": 4, "result": 5}'):
        log.write_text(text)
        with pytest.raises(UserError, match="not the log of a training run"):
            accuracy_rows.from_log(log)


def test_seeds_are_one_group(logs):
    rows = [accuracy_rows.from_log(path) for path in sorted(logs.glob("*.json"))]
    first, second = accuracy_rows.grouped(rows)
    assert [row.name for row in first.rows] == ["float"]
    assert [row.seed for row in second.rows] == [0, 1]
    assert second.accuracy == pytest.approx(sum(second.accuracies) / 2)
    other = dataclasses.replace(rows[1], recipe=rows[1].recipe | {"lambda": 7.0})
    assert len(accuracy_rows.grouped([*rows, other])) == 3


def test_command(logs, log, tmp_path, monkeypatch, capsys):
    """Rows are kept, the page is stale until it is made again, and then it is not."""
    page = tmp_path / "page.md"
    page.write_text(accuracy_page.PAGE.read_text())
    monkeypatch.setattr(accuracy_rows, "FOLDER", tmp_path / "rows")
    monkeypatch.setattr(accuracy_page, "PAGE", page)
    monkeypatch.setattr(accuracy_plots, "PICTURES",
                        {across: tmp_path / f"{across}.svg" for across in ("k", "bits")})
    (tmp_path / "rows").mkdir()
    accuracy_table.main(["--add", str(log), "--name", "a-row"])
    assert accuracy_rows.load() == [accuracy_rows.from_log(log, "a-row")]
    accuracy_table.main(["--add", str(logs / "flightnn-1.json"), str(logs / "float.json")])
    assert len(accuracy_table.stale()) == 3
    accuracy_table.main(["--table"])
    assert accuracy_table.stale() == []
    text = page.read_text()
    top1 = [accuracy_rows.from_log(logs / f"flightnn-{seed}.json").accuracy
            for seed in (0, 1)]
    assert f"| {50 * sum(top1):.2f} % | {100 * min(top1):.2f} to {100 * max(top1):.2f} | 2 " in text
    assert "[0](../benchmarks/accuracy/a-row.json)" in text
    changed(tmp_path / "rows" / "a-row.json", lambda row: row.update(top1=0.125))
    assert len(accuracy_table.stale()) == 3
    capsys.readouterr()
    accuracy_table.main(["--json"])
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == [
        "a-row", "flightnn-1", "float"]
    (tmp_path / "rows" / "bad.json").write_text('{"name": "bad"}')
    with pytest.raises(UserError, match=r"bad\.json: not a row of this table"):
        accuracy_rows.load()
    with pytest.raises(UserError, match="--name is for one log"):
        accuracy_table.main(["--table", "--name", "x"])
    with pytest.raises(UserError, match="a row cannot be called '../x'"):
        accuracy_table.main(["--add", str(log), "--name", "../x"])


def test_verdicts(logs):
    """Every claim holds, fails and is open when it should be."""
    row = accuracy_rows.from_log(logs / "flightnn-0.json")
    formats = row.formats | {"exponent_bits": [3], "activation_bits": [8]}
    base = {"dataset": "cifar10", "network": "resnet8", "formats": formats}
    flight = group(row, 2, **base, mean_k=1.4, top1=0.861)
    assert {verdict.holds for verdict in accuracy_claims.targets([])} == {None}
    claim, = [each for each in accuracy_claims.targets([flight]) if each.holds is not None]
    assert claim.holds
    assert "at least 86 %" in claim.claim
    assert claim.reason == "resnet8, mean k 1.40: 86.10 % (86.10 to 86.10, 2 seeds)"
    for worse in ({"top1": 0.8599}, {"mean_k": 1.41}, {"network": "resnet20"},
                  {"formats": formats | {"activation_bits": [4]}}):
        found = accuracy_claims.targets([group(row, **base | {"mean_k": 1.4, "top1": 0.861}
                                               | worse)])
        assert not any(verdict.holds for verdict in found)
    two = {"method": "lightnn2", "mean_k": 2.0}
    for gap, holds in ((0.0, True), (0.001, True), (0.0011, False), (-0.01, True)):
        within, above = accuracy_claims.comparisons(
            [flight, group(row, **base, **two, top1=0.861 + gap)])
        assert within.holds is holds
        assert above.holds is None
    fixed = {"method": "fixed", "mean_k": None, "formats": formats | {
        "weights": ["fixed"], "exponent_bits": [], "weight_bits": [4]}}
    for top1, holds in ((0.860, True), (0.861, False)):
        within, above = accuracy_claims.comparisons(
            [flight, group(row, **base | fixed, top1=top1)])
        assert (within.holds, above.holds) == (None, holds)
    # Other epochs, or eight bits, or too many terms: nothing to compare.
    for one, other in ((flight, {"epochs": 99}), (flight, {"network": "vgg"}),
                       (group(row, **base, mean_k=1.6), {})):
        assert all(verdict.holds is None for verdict in accuracy_claims.comparisons(
            [one, group(row, **base | two | other)]))


def test_compression(logs):
    row = accuracy_rows.from_log(logs / "flightnn-0.json")
    base = {"dataset": "cifar10", "method": "mixed", "float_top1": 0.9}
    for bits, top1, holds in ((32 * row.weights // 22, 0.89, True), (row.weights, 0.889, False),
                              (32 * row.weights // 21, 0.9, False)):
        *_, verdict = accuracy_claims.targets([group(row, **base, model_bits=bits, top1=top1)])
        assert verdict.holds is holds


def test_settings_that_differ_are_named(logs):
    row = accuracy_rows.from_log(logs / "flightnn-0.json")
    other = dataclasses.replace(row, recipe=row.recipe | {"target_k": 1.3, "seed": 5}, seed=5)
    text = accuracy_page.parts([row, other])["measured"]
    assert "`flightnn`, target_k 1.3 |" in text
    assert f"`flightnn`, target_k {row.recipe['target_k']} |" in text


def test_a_page_without_markers():
    with pytest.raises(UserError, match="has no markers for 'measured'"):
        accuracy_page.filled("nothing", {"measured": "x"})


def test_published_figures_have_a_source():
    sources = published.sources()
    found = published.load()
    assert {each.source for each in found} == set(sources)
    assert all(url.startswith("https://") for _, url in sources.values())
    resnet20 = {(each.method, each.weight_bits): each for each in found
                if (each.network, each.dataset) == ("ResNet-20", "cifar10")}
    assert resnet20["DeepShift-Q", 5].top1 == 0.8985
    assert resnet20["DeepShift-Q", 5].model_bits == 5 * 268336
    with pytest.raises(ValueError, match="divide percent by 100"):
        published.Published("x", "x", "x", "x", 91.5)


def test_the_documentation_is_what_the_rows_give():
    """Otherwise: python -m benchmarks accuracy --table."""
    assert accuracy_table.stale() == []

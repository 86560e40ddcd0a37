import dataclasses
import json
import xml.etree.ElementTree as ElementTree

import pytest

from flightrtl.planner import Cost, FrontPoint
from flightrtl.report import RESOURCES, LayerReport, Report, table

SVG = "{http://www.w3.org/2000/svg}"


def usage(**used):
    have = {"lut4": 5280, "ff": 5280, "bram": 30, "spram": 4, "dsp": 8}
    return {key: {"used": used.get(key, 0), "available": have[key]} for key in RESOURCES}


CONVOLUTION = LayerReport(
    name="conv1", type="convolution", dataflow="folded", lanes=8, simd=2, pixels=1,
    output_pixels=196, terms=39200,
    cycles=4900, utilization=0.975, k_histogram={2: 3, 1: 5},
    buffer_bits=16384, weight_read_bits=9000,
    resources={"lut4": 750, "ff": 500, "bram": 3, "spram": 0, "dsp": 0})
POOL = LayerReport(
    name="pool1", type="max_pool", dataflow="streamed", lanes=1, simd=1, pixels=1,
    output_pixels=49, terms=0,
    cycles=784, utilization=0, k_histogram={},
    buffer_bits=0, weight_read_bits=0, resources={"lut4": 50, "ff": 30})
ESTIMATE = Report(
    model="<net>", sha256="0" * 64, layers=(CONVOLUTION, POOL),
    accuracy={"dataset": "mnist", "images": 10000, "top1": 0.9931},
    other={"link": {"lut4": 100, "ff": 60}}, board="icebreaker", device="iCE40UP5K",
    tools={"yosys": "0.70"}, clock_mhz=36.0, cycles_per_inference=4900, latency_cycles=9000,
    estimate=usage(lut4=950, ff=600, bram=3), link={"kind": "uart", "baud": 115200})
BUILT = dataclasses.replace(
    ESTIMATE, resources=usage(lut4=900, ff=590, bram=3), fmax_mhz=37.25, seed=2,
    tries={1: 35.5, 2: 37.25}, critical_path=("network.conv1", "link"), bitstream="/out/top.bin")


def test_json_of_a_build():
    report = json.loads(json.dumps(BUILT.as_json()))
    assert report["model"]["accuracy"] == {"dataset": "mnist", "images": 10000, "top1": 0.9931}
    assert report["model"]["layers"][0]["k_histogram"] == {"1": 5, "2": 3}
    assert report["inferences_per_second"] == pytest.approx(36e6 / 4900, rel=1e-6)
    assert report["resources"]["lut4"] == {"used": 900, "available": 5280}
    assert report["estimate"]["resources"]["lut4"] == {"used": 950, "available": 5280}
    assert report["fmax_mhz_by_seed"] == {"1": 35.5, "2": 37.25}
    assert report["bitstream"] == "/out/top.bin"


def test_json_of_an_estimate_has_the_same_keys():
    assert list(ESTIMATE.as_json()) == list(BUILT.as_json())


@pytest.mark.parametrize("report", [ESTIMATE, BUILT])
def test_text(report):
    text = report.as_text()
    assert max(map(len, text.splitlines())) <= 100
    assert not any(line != line.rstrip() for line in text.splitlines())
    for word in ("conv1", "pool1", "link", "8 x 2", "97.5 %", "5 of 1, 3 of 2", "99.31 %",
                 "7,347 inferences per second", "0.250 ms", "serial port, 115,200 baud"):
        assert word in text
    assert ("37.2 MHz (seed 2)" in text) == (report is BUILT)


def test_front():
    """Of an estimate: the rates from the slowest on, with bars as long as they are large."""
    points = [FrontPoint(9800, 3673.469388, Cost(lut4=500, bram=3)),
              FrontPoint(4900, 7346.938776, Cost(lut4=1000, bram=4))]
    report = dataclasses.replace(ESTIMATE, front=points)
    assert report.as_json()["front"][0] == {
        "cycles": 9800, "inferences_per_second": 3673.469, "lut4": 500, "bram": 3, "dsp": 0}
    slow, fast = report.as_text().splitlines()[-2:]
    assert slow.split()[:4] == ["3,673", "9,800", "500", "3"]
    assert (slow.count("#"), fast.count("#")) == (24, 48)


def test_how_a_hard_wired_layer_is_shown():
    wired = dataclasses.replace(CONVOLUTION, dataflow="hard-wired", lanes=1, simd=1)
    line = next(line for line in dataclasses.replace(BUILT, layers=(wired, POOL)).as_text()
                .splitlines() if line.startswith("conv1"))
    assert "hard-wired" in line
    assert " x " not in line


def test_a_model_without_known_accuracy():
    report = dataclasses.replace(BUILT, accuracy={"dataset": None, "images": None, "top1": None})
    assert "top-1" not in report.as_text()


@pytest.mark.parametrize("report", [ESTIMATE, BUILT])
def test_picture(report):
    picture = ElementTree.fromstring(report.as_svg())
    words = [text.text for text in picture.iter(f"{SVG}text")]
    assert words[0].startswith("<net> on icebreaker")
    for word in ("conv1", "pool1", "link", "750", "4,900"):
        assert word in words
    width, height = float(picture.get("width")), float(picture.get("height"))
    for bar in picture.iter(f"{SVG}rect"):
        assert float(bar.get("x", 0)) + float(bar.get("width")) <= width
        assert float(bar.get("y", 0)) + float(bar.get("height")) <= height


def test_the_bars_of_the_picture_are_in_proportion():
    bars = {}
    label = None
    for element in ElementTree.fromstring(BUILT.as_svg()):
        if element.tag == f"{SVG}text" and element.get("text-anchor") == "end":
            label = element.text
        elif label and element.tag == f"{SVG}rect":
            bars.setdefault(label, []).append(float(element.get("width")))
            label = None
    cells, cycles = zip(bars["conv1"], bars["pool1"], strict=True)
    assert cells[0] / cells[1] == pytest.approx(750 / 50, rel=0.02)
    assert cycles[0] / cycles[1] == pytest.approx(4900 / 784, rel=0.02)


def test_table():
    assert table(("name", "n"), [("a", "1"), ("long one", "234")], left=(0,)) == "\n".join([
        "name        n",
        "--------  ---",
        "a           1",
        "long one  234"])

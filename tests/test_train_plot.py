"""Pictures of training logs: what they show of a real log, and what is refused."""

import copy
import doctest
import json
from pathlib import Path

import pytest

from flightrtl import modelfile
from flightrtl.errors import UserError
from train import plot

pytest.importorskip("matplotlib")

LOG = Path(__file__).parent.parent / "benchmarks" / "training" / "digits.json"


@pytest.fixture(scope="module")
def log():
    """A few epochs of both stages of a committed run, as if there were no others."""
    content = json.loads(LOG.read_text(encoding="utf-8"))
    content["epochs"] = [*content["epochs"][73:77], *content["epochs"][-2:]]
    for number, epoch in enumerate(content["epochs"], 1):
        epoch["epoch"] = number
    return content


@pytest.fixture
def figure(monkeypatch):
    """The figures that are drawn, kept as they are when they are written."""
    from matplotlib.figure import Figure
    kept = []
    save = Figure.savefig

    def keep(self, *args, **options):
        kept.append(self)
        save(self, *args, **options)
    monkeypatch.setattr(Figure, "savefig", keep)
    return kept


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.axison]


def test_examples():
    result = doctest.testmod(plot)
    assert result.attempted > 0
    assert result.failed == 0


def test_everything_is_shown(tmp_path, figure, log):
    model = modelfile.load("digits")
    plot.draw(log, tmp_path / "a.svg", model)
    shown, = figure
    last = log["epochs"][-1]
    assert titles(shown) == [
        "loss", f"top-1, % (last {100 * last['top1']:.2f})", "mean k of each layer",
        "norm after one term / norm",
        *(f"{name}, mean k {layer['mean_k']:.2f}" for name, layer in last["layers"].items()),
        *last["layers"]]
    loss, top1, mean_k, _ = shown.axes[:4]
    assert loss.lines[0].get_ydata().tolist() == [epoch["loss"] for epoch in log["epochs"]]
    assert top1.lines[0].get_ydata().tolist() == [100 * epoch["top1"] for epoch in log["epochs"]]
    quantized = [epoch for epoch in log["epochs"] if "layers" in epoch]
    assert mean_k.lines[1].get_ydata().tolist() == [
        epoch["layers"]["dense1"]["mean_k"] for epoch in quantized]
    bars = next(axes for axes in shown.axes if axes.get_title() == "dense1").collections[0]
    heights = bars.get_segments()
    weights = model.layers[-1].weights
    assert {round(segment[1][0]): segment[1][1] for segment in heights} == pytest.approx({
        int(value): 100 * (weights == value).mean() for value in set(weights.flat)})


def test_a_float_log_and_one_without_a_model(tmp_path, figure, log):
    plot.draw(log, tmp_path / "a.png")
    floating = copy.deepcopy(log)
    floating["epochs"] = floating["epochs"][:2]
    plot.draw(floating, tmp_path / "b.png")
    assert len(titles(figure[0])) == 4 + len(log["epochs"][-1]["layers"])
    assert [title.split(",")[0] for title in titles(figure[1])] == ["loss", "top-1"]
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")


def test_no_label_lies_on_another(tmp_path, figure, log):
    """Titles and axis labels, with more layers than fit into a row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    wide = copy.deepcopy(log)
    for epoch in wide["epochs"]:
        if "layers" in epoch:
            layer = epoch["layers"]["conv1"]
            epoch["layers"] = {f"block{i}_shortcut": layer for i in range(13)}
    plot.draw(wide, tmp_path / "a.png", modelfile.load("digits"))
    shown, = figure
    canvas = FigureCanvasAgg(shown)
    canvas.draw()
    boxes = [text.get_window_extent(canvas.get_renderer()) for axes in shown.axes if axes.axison
             for text in (axes.title, axes.xaxis.label) if text.get_text()]
    assert len(boxes) > 4 + 13
    assert not [(one, other) for i, one in enumerate(boxes) for other in boxes[:i]
                if one.overlaps(other)]


def test_command(tmp_path, capsys, figure, log):
    path = tmp_path / "net.json"
    path.write_text(json.dumps(log))
    for words, panels in (((), 6), (("--model", "digits"), 8)):
        assert plot.main([str(path), *words]) == 0
        assert capsys.readouterr().out.strip() == str(tmp_path / "net.svg")
        assert len(titles(figure[-1])) == panels
    modelfile.save(modelfile.load("digits"), tmp_path / "net.safetensors")
    plot.main([str(path), "--output", str(tmp_path / "x.svg")])
    assert len(titles(figure[-1])) == 8
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "net.json", "net.safetensors", "net.svg", "x.svg"]


@pytest.mark.parametrize(("content", "words", "message"), [
    ("{}", (), "not the log of a training run"),
    ("[1]", (), "not the log of a training run"),
    ('{"epochs": []}', (), "no epoch is done yet"),
    ('{"epochs": [{}]}', (), "not the log of a training run"),
    (None, ("--model", "nope"), "nope"),
    (None, ("--output", "x.doc"), r"must end in \.svg, \.png, \.pdf"),
])
def test_bad_requests(tmp_path, log, content, words, message):
    path = tmp_path / "net.json"
    path.write_text(json.dumps(log) if content is None else content)
    with pytest.raises(UserError, match=message):
        plot.main([str(path), *words])

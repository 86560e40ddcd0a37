"""n-BQ-NN: levels and thresholds against plain definitions, the blend, export to the bit."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flightrtl import datasets, golden, modelfile
from flightrtl.errors import UserError
from flightrtl.formats import BinaryFormat, TermFormat
from flightrtl.model import WeightedLayer
from tests.training import assert_same_weights, interrupt_and_resume
from train import __main__ as command
from train import export
from train.data import as_tensors
from train.quantizers.base import power_of_two
from train.quantizers.nbq import NBQQuantizer, blend, match_spread, nbq_scale, staircase
from train.recipe import Recipe
from train.trainer import Trainer

QUICK = {"dataset": "digits", "network": "digits", "method": "nbq", "batch_size": 64,
         "activation_bits": 4, "float_share": 0.5}
BITS = [1, 2, 3, 4, 5]


def plain_level(value, ratio, scale, bits):
    """Equation 4 and the thresholds below it, for one number."""
    if bits == 1:
        return -2.0 ** scale if value < 0 else 2.0 ** scale
    powers = 2 ** (bits - 1) - 1
    for index in range(powers):
        level = 2.0 ** (scale + powers - 1 - index)
        if abs(value) >= ratio * level:
            return math.copysign(level, value)
    return 0.0


def form(bits):
    return TermFormat(bits - 1) if bits > 1 else BinaryFormat()


def filters(seed, count=6, taps=72):
    generator = torch.Generator().manual_seed(seed)
    return (torch.exp(torch.randn(count, 1, generator=generator))
            * torch.randn(count, taps, generator=generator))


@pytest.fixture(scope="module")
def data():
    return as_tensors(datasets.load("digits", split="train"), datasets.load("digits"))


@pytest.mark.parametrize("bits", BITS)
@given(value=st.floats(-40, 40, width=32), eighths=st.integers(4, 8), scale=st.integers(-6, 3))
@settings(max_examples=60, deadline=None)
def test_staircase(bits, value, eighths, scale):
    found = staircase(torch.tensor([[value]]), torch.tensor([eighths / 8]), torch.tensor([scale]),
                      form(bits)).item()
    assert found == plain_level(value, eighths / 8, scale, bits)


@pytest.mark.parametrize("bits", BITS[2:])
def test_thresholds_give_quantized_weights_the_spread_of_the_real_ones(bits):
    weight = filters(1, count=20, taps=2000)
    scale = nbq_scale(weight, form(bits))
    ratio = match_spread(weight, scale, form(bits))
    values = staircase(weight, ratio, scale, form(bits))
    spread = values.square().sum(dim=1) / weight.square().sum(dim=1)
    assert spread.numpy() == pytest.approx(np.ones(20), abs=0.02)
    middle = staircase(weight, torch.full((20,), 0.75), scale, form(bits))
    before = middle.square().sum(dim=1) / weight.square().sum(dim=1)
    assert float((before - 1).abs().max()) > 2 * float((spread - 1).abs().max())


def test_a_spread_that_cannot_be_met():
    """One level, and all weights below it or far above: the nearest that there is."""
    scale, ternary = torch.tensor([0, 0]), TermFormat(1)
    weight = torch.tensor([[3.0, -3.0, 0.6, 0.2], [0.3, -0.3, 0.2, 0.2]])
    ratio = match_spread(weight, scale, ternary)
    assert ratio[0] < 0.6
    assert ratio[1] == 0.75
    assert staircase(weight, ratio, scale, ternary).tolist() == [[1, -1, 1, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("bits", BITS)
def test_levels_stay_where_they_are(bits):
    """What the convergence of the blend needs: the staircase takes every level to itself."""
    weight = filters(2)
    scale = nbq_scale(weight, form(bits))
    for ratio in (0.51, 0.99):
        ratios = torch.full((6,), ratio)
        values = staircase(weight, ratios, scale, form(bits))
        assert torch.equal(staircase(values, ratios, scale, form(bits)), values) or bits == 1
    if bits == 1:
        assert set((values / power_of_two(scale)[:, None]).flatten().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("bits", BITS)
def test_the_scale_is_the_best_of_all(bits):
    weight = filters(3)
    scale = nbq_scale(weight, form(bits))
    ratio = torch.full((6,), 0.75)

    def error(scales):
        return (staircase(weight, ratio, scales, form(bits)) - weight).square().sum(dim=1)
    for other in range(-16, 6):
        assert torch.all(error(scale) <= error(torch.full_like(scale, other)) + 1e-6)


def test_author_ratio_of_thresholds():
    """0.14 and 0.07 of the maximum lie a factor of two apart, as ``c 2^-i`` says."""
    weight = torch.tensor([[1.0, 0.15, 0.13, 0.08, 0.06, -0.15]])
    values = staircase(weight, torch.tensor([0.56]), torch.tensor([-4]), TermFormat(2))
    assert values.tolist() == [[0.25, 0.25, 0.125, 0.125, 0.0625, -0.25]]


@pytest.mark.parametrize("bits", BITS)
def test_blend_and_its_gradient(bits):
    quantizer = NBQQuantizer(6, bits, 31)
    weight = filters(4).requires_grad_()
    quantizer.fold(weight)
    scale = quantizer.scale(weight)
    levels = quantizer.quantized(weight, scale)
    for progress in (0.0, 0.4, 1.0):
        quantizer.advance(progress)
        share = 0.5 * 2.0 ** progress
        values = quantizer(weight, scale)
        assert torch.allclose(values, (1 - share) * weight + share * levels, atol=1e-6)
        gradient, = torch.autograd.grad(values.sum(), weight)
        assert gradient.numpy() == pytest.approx(np.full((6, 72), 1 - share), abs=1e-6)
        with torch.no_grad():
            assert torch.equal(quantizer(weight, scale), levels)
    quantizer.eval()
    assert torch.equal(quantizer(weight, scale), levels)
    slots, counts = quantizer.train().slots(weight, scale)
    assert torch.equal(torch.stack(slots), levels)
    assert counts.tolist() == [1] * 6


def test_repeated_blending_converges_to_levels():
    """Theorem 2 of the paper, for thresholds that follow the weights."""
    quantizer = NBQQuantizer(6, 3, 31)
    weight = filters(5)
    quantizer.fold(weight)
    scale = quantizer.scale(weight)
    for _ in range(30):
        weight = weight - 0.5 * (weight - quantizer.quantized(weight, scale))
    assert torch.allclose(weight, quantizer.quantized(weight, scale), atol=1e-5)


def test_wrong_bits():
    with pytest.raises(ValueError, match="1 to 5 bits, not 6"):
        NBQQuantizer(4, 6, 0)
    with pytest.raises(UserError, match="the method nbq has weight_bits 1 to 5, not 6"):
        Recipe("digits", "digits", "nbq", weight_bits=6)
    with pytest.raises(UserError, match="layers.conv1: the method fixed has weight_bits 2 to 8"):
        Recipe("digits", "digits", "nbq", layers={"conv1": {"method": "fixed", "weight_bits": 1}})


@pytest.mark.parametrize(("bits", "span"), [(1, 0), (2, 3), (3, 0), (4, 1), (5, 31)])
def test_export_is_exactly_the_trained_network(data, bits, span):
    trainer = Trainer(Recipe(**QUICK, weight_bits=bits, scale_span=span, epochs=3, ema=0.9), data)
    for _ in range(3):
        trainer.run_epoch()
    trainer.finish()
    model = export.export(trainer.network, "net", {})
    assert modelfile.check(model) == []
    mismatches, logits = export.compare(trainer.network, model, data.test_images)
    assert mismatches == 0
    assert logits.any()
    for layer in model.layers:
        if isinstance(layer, WeightedLayer):
            assert layer.format == form(bits)
            assert np.ptp(layer.shift) <= span
            assert set(layer.k) == {1}


def test_training_beats_rounding(data):
    """Two bits: what the quantized stage learns, against the float network just rounded."""
    recipe = Recipe(**QUICK | {"activation_bits": 8}, weight_bits=2, epochs=12)
    trainer = Trainer(recipe, data)
    while trainer.stage == "float":
        trainer.run_epoch()
    trainer._quantize()
    rounded = trainer.evaluate()
    trainer = Trainer(recipe, data)
    for _ in range(12):
        log = trainer.run_epoch()
    assert log["top1"] > max(0.85, rounded + 0.03)


def test_from_the_command_line_with_resume(tmp_path, capsys, monkeypatch):
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    path = tmp_path / "quick.toml"
    path.write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in QUICK.items()))
    options = ["--recipe", str(path), "--method", "nbq", "--weight-bits", "3", "--epochs", "6",
               "--json", "--output"]
    assert command.main([*options, str(whole)]) == 0
    result = json.loads(capsys.readouterr().out)
    model = modelfile.load(whole)
    assert result["mismatches"] == 0
    assert result["top1"] == golden.top1(model, *datasets.load("digits")) > 0.7
    assert_same_weights(model, interrupt_and_resume(options, parts, 4, monkeypatch))


def test_the_schedule_is_the_authors():
    assert [blend(epoch / 4) for epoch in range(5)] == pytest.approx(
        [0.5, 0.5946, 0.7071, 0.8409, 1.0], abs=1e-4)

"""Binary networks: every integer equal to the golden model's, gradients, the distribution loss."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from flightrtl import datasets, golden, modelfile
from flightrtl.errors import UserError
from flightrtl.formats import ActivationFormat, BinaryFormat, FixedFormat
from flightrtl.model import Add, Convolution, SumPool, TensorType, WeightedLayer
from tests.training import assert_same_weights, interrupt_and_resume
from train import __main__ as command
from train import export, floatfile, verify
from train.binary_layers import BinaryLayer
from train.convert import convert
from train.data import as_tensors
from train.distribution import distribution_loss
from train.methods import LayerSettings
from train.quantizers.binary import BinaryQuantizer, Sign
from train.recipe import Recipe
from train.trainer import Trainer

QUICK = {"dataset": "digits", "network": "digits", "method": "bnn", "batch_size": 64}
IMAGE = TensorType((8, 8, 2), ActivationFormat(4), -4)


@pytest.fixture(scope="module")
def data():
    return as_tensors(datasets.load("digits", split="train"), datasets.load("digits"))


class Block(nn.Module):
    """A residual block; its shortcut is the input or a 1 x 1 convolution of it."""

    def __init__(self, channels, filters):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(filters)
        self.shortcut = (nn.Sequential(nn.Conv2d(channels, filters, 1), nn.BatchNorm2d(filters))
                         if filters != channels else nn.Identity())

    def forward(self, values):
        inner = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(values)))))
        return torch.relu(inner + self.shortcut(values))


def residual():
    """Signs into additions on one side, on both, and on none; both poolings of signs."""
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 8, 3, padding=1)
            self.norm = nn.BatchNorm2d(8)
            self.block1, self.block2 = Block(8, 8), Block(8, 12)
            self.pool = nn.MaxPool2d(2)
            self.mean = nn.AvgPool2d(2)
            self.side = nn.Conv2d(12, 12, 1)        # no batch norm of its own
            self.dense = nn.Linear(12 * 4, 5)

        def forward(self, values):
            values = self.block1(torch.relu(self.norm(self.conv(values))))
            values = self.pool(self.block2(values))
            values = values + torch.relu(self.side(values))     # a sum of two signs
            return self.dense(self.mean(values).flatten(1))
    return Net()


def stir(network, seed=0):
    """Batch norms of all kinds: negative and zero factors, thresholds out of reach."""
    generator = torch.Generator().manual_seed(seed)
    for layer in network.weighted:
        if layer.live_norm is not None:
            filters = len(layer.bias)
            layer.live_norm.weight.data = torch.randn(filters, generator=generator)
            layer.live_norm.bias.data = 0.3 * torch.randn(filters, generator=generator)
            layer.live_norm.weight.data[0] = 0.0
            layer.live_norm.weight.data[1] = -0.5
            layer.live_norm.weight.data[2] = 1e-12
            layer.live_norm.bias.data[3] = 1e6
            layer.live_norm.bias.data[4] = -1e6
            layer.live_norm.running_mean += (0.3 * torch.randn(filters, generator=generator)
                                             * layer.live_norm.running_var.sqrt())


def images(count=40, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 16, (count, 2, 8, 8), generator=generator)


@pytest.mark.parametrize("stirred", [False, True])
def test_a_residual_network_is_exact(stirred):
    torch.manual_seed(3)
    network = convert(residual(), IMAGE, LayerSettings("bnn"))
    network.fold(images().float())
    for _ in range(3):                                  # running statistics move
        network.train()(images().float())
    if stirred:
        stir(network)
    model = export.export(network.eval(), "net", {})
    assert modelfile.check(model) == []
    mismatches, logits = export.compare(network, model, images(60, 2))
    assert mismatches == 0
    # The scales in the file fit together, too.
    integers = images(60, 2).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(verify.fake_quantized(model, integers), logits)
    assert np.ptp(logits, axis=0).all()
    trace = golden.trace(model, integers)
    bits = [layer.name for layer in model.layers if getattr(layer, "output", None)
            == ActivationFormat(1)]
    assert {"conv", "block1_conv1", "block2_conv1", "side"} <= set(bits)
    assert all(set(np.unique(trace[name])) == {0, 1} for name in bits)
    kinds = {type(layer) for layer in model.layers}
    assert {Add, SumPool, Convolution} <= kinds
    formats = [layer.format for layer in model.layers if isinstance(layer, WeightedLayer)]
    assert formats[0] == formats[-1] == FixedFormat(8)
    assert set(formats[1:-1]) == {BinaryFormat()}


def plain_layer(layer, values):
    """A layer in evaluation as PyTorch computes it, in float64."""
    top, bottom, left, right = layer.padding
    padded = nn.functional.pad(values, (left, right, top, bottom), value=float(layer.before))
    sums = nn.functional.conv2d(padded.double(), layer.quantized_weight().double(), None,
                                layer.stride)
    norm = layer.live_norm
    return nn.functional.batch_norm(sums, norm.running_mean.double(), norm.running_var.double(),
                                    norm.weight.double(), norm.bias.double(), eps=norm.eps)


def test_signs_are_those_of_the_batch_norm():
    """The integer thresholds against the definition, where it is not a matter of rounding."""
    torch.manual_seed(4)
    network = convert(residual(), IMAGE, LayerSettings("bnn"))
    network.fold(images().float())
    stir(network, 5)
    network.eval()
    seen = 0
    for name in ("conv", "block1_conv1", "block2_conv1", "side"):
        layer = network.layers[name]
        shape = (20, layer.weight.shape[1], 8, 8)
        values = (torch.randint(0, 16, shape) / 16 if name == "conv"
                  else 2.0 * torch.randint(0, 2, shape) - 1)
        expected = plain_layer(layer, values)
        clear = expected.abs() > 1e-6
        seen += int(clear.sum())
        assert torch.equal(layer(values)[clear], torch.where(expected > 0, 1.0, -1.0)[clear])
    assert seen > 50_000


def test_factors_of_operands_are_powers_of_two():
    torch.manual_seed(6)
    network = convert(residual(), IMAGE, LayerSettings("bnn", residual_bits=16))
    network.fold(images().float())
    layer = network.layers["block1_conv2"]
    assert isinstance(layer, BinaryLayer)
    assert layer.live_norm is not None
    layer.live_norm.weight.data = torch.linspace(-1, 1, 8)
    values = 2.0 * torch.randint(0, 2, (20, 8, 8, 8)) - 1
    layer.eval()
    norm = layer.live_norm
    assert norm.running_var is not None
    exact = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    rounded = torch.sign(exact) * 2.0 ** torch.log2(exact.abs()).round()
    sums = (plain_layer(layer, values) - norm.bias[:, None, None]) / exact[:, None, None]
    expected = sums * rounded[:, None, None] + norm.bias[:, None, None]
    expected = expected.detach()
    step = 2.0 ** int(layer.output_scale)
    assert float((layer(values) - expected).abs().max()) <= step
    layer.train()
    layer.live_norm.momentum = 0.0
    inside = layer(values)
    assert inside.requires_grad
    assert torch.equal(inside / step, (inside / step).round())


def test_a_layer_by_xnor_and_popcount():
    """From the exported codes alone, as docs/model-file.md says."""
    torch.manual_seed(7)
    network = convert(residual(), IMAGE, LayerSettings("bnn"))
    network.fold(images().float())
    stir(network)
    model = export.export(network.eval(), "net", {})
    trace = golden.trace(model, images().permute(0, 2, 3, 1).numpy())
    layer = next(layer for layer in model.layers if layer.name == "block1_conv1")
    assert isinstance(layer, Convolution)
    bits = np.pad(trace[layer.inputs[0]].astype(np.uint8), ((0, 0), (1, 1), (1, 1), (0, 0)))
    found = np.zeros_like(trace[layer.name])
    for y, x in np.ndindex(8, 8):
        window = bits[:, y:y + 3, x:x + 3].reshape(len(bits), 1, -1)
        codes = layer.terms.reshape(1, layer.filters, -1)
        packed = np.packbits(1 - (window ^ codes), axis=-1)
        popcount = np.bitwise_count(packed).sum(axis=-1, dtype=np.int64)
        sums = popcount - (codes == 0).sum(axis=-1)
        found[:, y, x] = sums + layer.bias >= 1
    assert not layer.shift.any()
    assert np.array_equal(found, trace[layer.name])


def test_gradient_of_the_weights():
    """Straight through; outside of [-1, 1] only inwards."""
    weight = torch.tensor([[0.3, -0.2, 1.5, 1.5, -1.5, -1.5]], requires_grad=True)
    quantizer = BinaryQuantizer(1, 0)
    quantizer.fold(weight)
    scale = quantizer.scale(weight)
    values = quantizer(weight, scale)
    assert values.tolist() == [[1.0, -1.0, 1.0, 1.0, -1.0, -1.0]]
    values.backward(torch.tensor([[1.0, -2.0, 1.0, -1.0, 1.0, -1.0]]))
    assert weight.grad is not None
    assert weight.grad.tolist() == [[1.0, -2.0, 1.0, 0.0, 0.0, -1.0]]


def test_gradient_of_a_sign():
    values = torch.tensor([-1.5, -1.0, 0.0, 1.0, 1.5], requires_grad=True)
    Sign.apply(values, False).backward(torch.tensor([1.0, 2.0, 3.0, 4.0, -5.0]))
    assert values.grad is not None
    assert values.grad.tolist() == [0.0, 2.0, 3.0, 4.0, 0.0]


def test_training_and_evaluation_agree_where_statistics_do():
    """With a batch's own statistics as the running ones, both give the same signs."""
    torch.manual_seed(8)
    layer = BinaryLayer(name="x", channels=6, filters=10, kernel=(3, 3), stride=(2, 1),
                        padding=(1, 1, 1, 1), groups=1, quantizer=BinaryQuantizer(10, 0),
                        output=ActivationFormat(1), batch_norm=True, dense=False,
                        source=ActivationFormat(1), before=-1, sign=True)
    values = 2.0 * torch.randint(0, 2, (30, 6, 9, 9)) - 1
    layer.start([values], [1])
    layer.live_norm.momentum = 1.0
    layer.live_norm.weight.data = torch.randn(10)
    layer.live_norm.bias.data = torch.randn(10)
    trained = layer.train()(values)
    clear = layer.preactivation.abs() > 1e-2
    layer.live_norm.running_var *= 1 - 1 / (trained.numel() / 10)       # it is the unbiased one
    assert torch.equal(layer.eval()(values)[clear], trained[clear])
    assert layer.preactivation is None


@pytest.mark.parametrize("form", ["paper", "code"])
def test_distribution_loss(form):
    generator = np.random.default_rng(9)
    maps = [generator.normal(size=(5, 7, 4, 4)) * generator.uniform(0, 9, (7, 1, 1))
            + generator.normal(size=(7, 1, 1)) * 2, generator.normal(size=(30, 4))]
    expected = []
    for values in maps:
        flat = values.swapaxes(0, 1).reshape(values.shape[1], -1)
        mu, sigma = flat.mean(axis=1), flat.std(axis=1)
        if form == "paper":
            loss = (np.maximum(abs(mu) - sigma, 0) ** 2 + np.maximum(0.25 * sigma - 1, 0) ** 2
                    + np.maximum(1 - abs(mu) - 0.25 * sigma, 0) ** 2)
        else:
            near = np.minimum(2 - mu - sigma, 2 + mu - sigma)
            loss = (np.maximum(near, 0) ** 2 + np.maximum(sigma - 4, 0) ** 2
                    + np.maximum(mu ** 2 - sigma ** 2, 0))
        expected.append(loss.mean())
    found = distribution_loss([torch.tensor(values) for values in maps], form)
    assert found.item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_distribution_loss_at_a_constant_channel():
    """No standard deviation, and still a gradient that is a number."""
    values = torch.full((8, 3), 2.5, requires_grad=True)
    distribution_loss([values], "paper").backward()
    assert values.grad is not None
    assert torch.isfinite(values.grad).all()
    assert float(values.grad.sum()) > 0
    with pytest.raises(ValueError, match="paper or code, not 'none'"):
        distribution_loss([values], "none")


def test_the_loss_acts_until_told(data):
    trainer = Trainer(Recipe(**QUICK, epochs=2, distribution="code", distribution_until=0.5,
                             distribution_weight=3.0), data)
    trainer.run_epoch()
    trainer._quantize()
    trainer.epoch = 1
    trainer.network.train()
    trainer.network(data.images[:64].float())
    layer = trainer.network.layers["conv1"]
    assert isinstance(layer, BinaryLayer)
    assert layer.preactivation is not None
    expected = 3 * distribution_loss([layer.preactivation], "code")
    assert expected.item() > 0
    assert torch.equal(trainer._penalty(0.4), expected)
    assert trainer._penalty(0.6) == 0


@pytest.mark.parametrize(("network", "distribution"), [
    ("digits", "paper"), ("resnet8", "code")])
def test_export_is_exactly_the_trained_network(data, network, distribution, monkeypatch):
    small = data.__class__(data.images[:256], data.labels[:256], data.test_images[:100],
                           data.test_labels[:100])
    trainer = Trainer(Recipe(**QUICK | {"network": network}, epochs=2, ema=0.5,
                             distribution=distribution), small)
    for _ in range(2):
        trainer.run_epoch()
    trainer.finish()
    model = export.export(trainer.network, "net", {})
    assert modelfile.check(model) == []
    mismatches, logits = export.compare(trainer.network, model, small.test_images)
    assert mismatches == 0
    assert logits.any()


def test_a_deep_chain_of_signs_learns(data):
    trainer = Trainer(Recipe(**QUICK | {"network": "vgg-mnist"}, epochs=12, float_share=0.2,
                             quantized_learning_rate=1e-2, distribution="code"), data)
    for _ in range(12):
        log = trainer.run_epoch()
    assert log["top1"] > 0.85


def test_from_the_command_line_with_resume(tmp_path, capsys, monkeypatch):
    """Once after its own float stage, once from a float network, stopped and resumed."""
    path = tmp_path / "quick.toml"
    path.write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in QUICK.items())
                    + '\nfloat_share = 0.2\ndistribution = "paper"\n')
    start = tmp_path / "start.safetensors"
    base = ["--recipe", str(path), "--json", "--epochs"]
    assert command.main([*base, "5", "--output", str(tmp_path / "own.safetensors")]) == 0
    assert json.loads(capsys.readouterr().out)["mismatches"] == 0
    assert command.main(["--dataset", "digits", "--network", "digits", "--method", "float",
                         "--epochs", "3", "--output", str(start)]) == 0
    capsys.readouterr()
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    options = [*base, "10", "--init", str(start), "--output"]
    assert command.main([*options, str(whole)]) == 0
    result = json.loads(capsys.readouterr().out)
    model = modelfile.load(whole)
    assert result["mismatches"] == 0
    assert result["top1"] == golden.top1(model, *datasets.load("digits")) > 0.7
    assert_same_weights(model, interrupt_and_resume(options, parts, 6, monkeypatch))


def test_a_float_file_has_nothing_of_binary_layers(data):
    trainer = Trainer(Recipe(**QUICK, epochs=2), data)
    assert not [name for name in floatfile._state(trainer.network) if "live" in name]


def test_settings_of_single_layers():
    torch.manual_seed(10)
    usual = LayerSettings("bnn")
    network = convert(residual(), IMAGE, usual, layers={
        "conv": usual, "block1_conv2": LayerSettings("fixed", weight_bits=4)})
    formats = {layer.name: layer.quantizer.format for layer in network.weighted}
    assert formats["conv"] == formats["block1_conv1"] == BinaryFormat()
    assert formats["block1_conv2"] == FixedFormat(4)
    network.fold(images().float())
    model = export.export(network.eval(), "net", {})
    assert export.compare(network, model, images(20, 3))[0] == 0
    with pytest.raises(UserError, match="side: in a network with the method bnn a layer's method"):
        convert(residual(), IMAGE, usual, layers={"side": LayerSettings("flightnn")})


def test_pruned_filters():
    torch.manual_seed(12)
    network = convert(residual(), IMAGE, LayerSettings("bnn", sparsity=0.3))
    network.fold(images().float())
    network.train()(images().float())
    model = export.export(network.eval(), "net", {})
    assert modelfile.check(model) == []
    assert export.compare(network, model, images(20, 3))[0] == 0
    counts = {layer.name: layer.k.count(0) for layer in model.layers
              if isinstance(layer, WeightedLayer)}
    assert counts["block1_conv2"] == 2
    assert counts["side"] == 3


def test_binary_weights_in_another_network():
    """As a layer's method: only the weights are binary there."""
    torch.manual_seed(11)
    network = convert(residual(), IMAGE, LayerSettings("fixed"), layers={
        "block1_conv1": LayerSettings("bnn")})
    network.fold(images().float())
    model = export.export(network.eval(), "net", {})
    assert export.compare(network, model, images(20, 3))[0] == 0
    layer = next(layer for layer in model.layers if layer.name == "block1_conv1")
    assert layer.format == BinaryFormat()
    assert layer.output == ActivationFormat(8)


def test_wrong_recipes():
    with pytest.raises(UserError, match="no distribution 'other'; there are none, paper, code"):
        Recipe(**QUICK, distribution="other")
    with pytest.raises(UserError, match="distribution is for the method bnn; flightnn takes no"):
        Recipe(**QUICK | {"method": "flightnn"}, distribution="code")

"""Training from a bad start: everything stays finite, and what is exported is still exact."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from flightrtl import modelfile
from flightrtl.formats import ActivationFormat, requantize
from flightrtl.model import TensorType
from train.convert import convert
from train.export import compare, export
from train.layers import QuantizedAdd, QuantizedSumPool
from train.methods import LayerSettings
from train.quantizers.flightnn import TermQuantizer

IMAGE = TensorType((6, 6, 2), ActivationFormat(5), -4)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.conv3 = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1)
        self.conv4, self.dense = nn.Conv2d(6, 6, 3, padding=1), nn.Linear(54, 3)

    def forward(self, x):
        x = functional.relu(self.norm1(self.conv1(x)))
        x = functional.relu(self.conv3(functional.relu(self.conv2(x))) + x)
        x = functional.max_pool2d(functional.relu(self.conv4(x) + x), 2)
        return self.dense(x.flatten(1))


@torch.no_grad()
def bad_start(seed):
    """Filters of zeros, dead channels and a dead layer, one enormous and one tiny filter."""
    torch.manual_seed(seed)
    net = Residual()
    net.conv1.weight[0] = 0
    net.norm1.running_var[0] = 0
    net.norm1.bias[1] = -100
    net.conv1.weight[2] *= 1e6
    net.conv2.weight[2] *= 1e-12
    net.conv2.weight[3] *= 1e8
    net.conv2.bias[4] = 1e9
    net.conv3.bias[:3] = -1e6
    net.conv4.weight.zero_()
    net.conv4.bias.zero_()
    net.dense.weight[1] = 0
    return net


def finite(network):
    return all(bool(value.isfinite().all()) for value in network.state_dict().values())


def train(network, samples, labels, steps, rate=1.0):
    """Steps with a huge learning rate; whether every loss is finite."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, betas=(0.9, 0.99))
    network.train()
    losses = []
    for step in range(steps):
        chosen = torch.arange(16) + 16 * (step % 4)
        loss = functional.cross_entropy(network(samples[chosen]), labels[chosen])
        for layer in network.weighted:
            if network.folded:
                strengths = torch.full((layer.quantizer.max_terms,), 0.1)
                own = layer.quantizer.penalty(layer.weight, strengths)
                loss = loss if own is None else loss + own
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return bool(torch.stack(losses).isfinite().all())


@pytest.mark.parametrize(("terms", "exponent_bits", "span", "prune", "bits"), [
    (2, 1, 0, False, 1), (3, 2, 3, False, 4), (2, 3, 3, True, 8), (3, 4, 31, False, 16),
])
def test_two_hundred_steps_from_a_bad_start(terms, exponent_bits, span, prune, bits):
    generator = torch.Generator().manual_seed(1)
    samples = torch.randint(0, 32, (64, 2, 6, 6), generator=generator).float()
    labels = torch.randint(0, 3, (64,), generator=generator)
    network = convert(bad_start(terms + bits), IMAGE, LayerSettings(
        exponent_bits=exponent_bits, max_terms=terms, scale_span=span, prune=prune,
        activation_bits=bits, residual_bits=max(2, bits)))
    assert train(network, samples, labels, 10)
    layers = {layer.name: layer for layer in network.weighted}
    with torch.no_grad():       # the float stage may have mended them
        layers["conv2"].weight[0] = 0
        layers["conv4"].weight.zero_()
        layers["conv4"].bias.zero_()
        layers["conv3"].weight[2] *= 1e10
    network.eval().fold(samples)
    for steps in (0, 1, 150, 49):
        assert train(network, samples, labels, steps) if steps else True
        assert finite(network)
        assert_exact(network, samples)
    for layer in network.weighted:
        assert isinstance(layer.quantizer, TermQuantizer)
        layer.freeze()
    assert train(network, samples, labels, 5)
    assert finite(network)
    assert_exact(network, samples)


def assert_exact(network, samples):
    model = export(network, "net", {})
    assert modelfile.check(model) == []
    assert compare(network, model, samples.long())[0] == 0


def test_an_addition_of_maps_that_are_far_apart():
    """One branch's values are a millionth of the other's: hardware cannot shift that far."""
    for seed in (0, 1):
        net = bad_start(seed)
        with torch.no_grad():
            net.conv3.weight.mul_(2.0 ** (30 if seed else -40))
            net.conv3.bias.zero_()
        network = convert(net, IMAGE)
        samples = torch.randint(0, 32, (32, 2, 6, 6),
                                generator=torch.Generator().manual_seed(2)).float()
        network.eval().fold(samples)
        assert_exact(network, samples)


@torch.no_grad()
def test_wide_sums_are_exact():
    """Of 16 bits on scales 13 apart, and of 1024 values: more than the 24 bits of float32."""
    form = ActivationFormat(16, signed=True)
    generator = torch.Generator().manual_seed(4)
    fine, coarse = torch.randint(form.min, form.max + 1, (2, 20_000), generator=generator)
    layer = QuantizedAdd("add1", form)
    layer.output_scale.fill_(13)
    layer.folded.fill_(True)
    found = layer(fine.float(), coarse.float() * 2.0 ** 13) / 2.0 ** 13
    wanted = requantize((fine + (coarse << 13)).numpy(), 1 << 12, 13, form)
    assert np.array_equal(found.numpy(), wanted)
    form = ActivationFormat(16)
    pool = QuantizedSumPool("sum_pool1", form, (32, 32), (32, 32))
    pool.folded.fill_(True)
    maps = torch.randint(form.max // 2, form.max + 1, (2000, 1, 32, 32), generator=generator)
    wanted = requantize(maps.sum(dim=(2, 3)).numpy(), 1 << 9, 10, form)
    assert np.array_equal(pool(maps.float()).flatten(1).numpy(), wanted)

# amaranth: UnusedElaboratable=no
"""Depthwise-separable networks: they train, export, and compute the same in hardware."""

import torch
from torch import nn

from flightrtl import modelfile
from flightrtl.formats import ActivationFormat
from flightrtl.gateware import Folding, Network
from flightrtl.model import Convolution, TensorType, WeightedLayer
from tests.test_network import simulate
from train.convert import convert
from train.export import compare, export
from train.methods import LayerSettings
from train.networks import NETWORKS, mobilenet

IMAGE = TensorType((8, 8, 1), ActivationFormat(4), -4)


def test_mobilenet_tiny_fits_every_data_set():
    for size, channels in ((8, 1), (28, 1), (32, 3)):
        image = TensorType((size, size, channels), ActivationFormat(8), -8)
        network = convert(NETWORKS["mobilenet-tiny"].make(image, 10), image)
        depthwise = [layer for layer in network.weighted if layer.groups > 1]
        assert [tuple(layer.weight.shape) for layer in depthwise] == [
            (filters, 1, 3, 3) for filters in (8, 16, 32, 32)]
        assert network.eval()(torch.zeros(1, channels, size, size)).shape == (1, 10)


def test_trained_network_is_its_gateware():
    torch.manual_seed(0)
    net = mobilenet(IMAGE, 3, ((4, 2), (6, 1), (8, 2)))
    network = convert(net, IMAGE, LayerSettings(method="lightnn2", activation_bits=5))
    whole = torch.randint(0, 16, (60, 1, 8, 8))
    images = whole.float()
    labels = images.mean(dim=(1, 2, 3)).argsort().argsort() // 20    # how bright they are

    def step(rate):
        optimizer = torch.optim.SGD(network.parameters(), lr=rate)
        losses = []
        for _ in range(12):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network.train()(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        return losses

    losses = step(0.1)
    assert losses[-1] < losses[0]
    network.eval().fold(images)
    depthwise = network.weighted[1]
    assert depthwise.groups == 4
    before = depthwise.weight.detach().clone()
    step(0.01)
    assert not torch.equal(depthwise.weight, before)
    for layer in network.weighted:
        layer.freeze()
    network.eval().fold(images)
    model = export(network, "separable", {})
    assert modelfile.check(model) == []
    assert [layer.groups for layer in model.layers if isinstance(layer, Convolution)] == [
        1, 4, 1, 6, 1]
    assert compare(network, model, whole)[0] == 0
    foldings = {layer.name: Folding(layer.filters if layer.groups == 1 else 1, 1)
                for layer in model.layers if isinstance(layer, WeightedLayer)}
    found = Network(model, foldings)
    simulate(found, whole[:2].numpy().transpose(0, 2, 3, 1))

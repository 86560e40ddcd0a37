"""Any module of supported layers becomes the same function, quantized and exported exactly."""

import math
import operator
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from flightrtl import modelfile
from flightrtl.errors import UserError
from flightrtl.formats import ActivationFormat, FixedFormat, TermFormat
from flightrtl.model import Add, Convolution, Dense, MaxPool, SumPool, TensorType
from train.convert import ConversionError, convert
from train.export import compare, export
from train.layers import QuantizedAdd, QuantizedLayer
from train.methods import LayerSettings

SEEDS = st.integers(0, 10_000)
IMAGE = TensorType((8, 8, 2), ActivationFormat(4), -4)


def images(tensor, count=12, seed=0):
    height, width, channels = tensor.shape
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(tensor.format.min, tensor.format.max + 1,
                         (count, channels, height, width), generator=generator)


class RandomNet(nn.Module):
    """Layers, and how they are spelled, drawn from a seed."""

    def __init__(self, seed, tensor, classes=3):
        super().__init__()
        self.random = random.Random(seed)
        self.steps = []
        self.parts = nn.ModuleList()
        self.shared = nn.ReLU(inplace=self.random.random() < 0.5)
        height, width, self.channels = tensor.shape
        self.size = height, width
        for _ in range(self.random.randint(1, 4)):
            getattr(self, "add_" + self.random.choice(("conv", "conv", "residual", "dense_block",
                                                       "pool")))()
        self.add_end(classes)

    def step(self, name, *modules):
        self.steps.append((name, len(self.parts), self.random.randrange(5)))
        self.parts.extend(modules)

    def conv(self, filters, kernel, stride=(1, 1), padding=(0, 0)):
        groups = math.gcd(self.channels, filters) if self.random.random() < 0.4 else 1
        modules = [nn.Conv2d(self.channels, filters, kernel, stride, padding, groups=groups,
                             bias=self.random.random() < 0.5)]
        if self.random.random() < 0.6:
            modules.append(nn.BatchNorm2d(filters, affine=self.random.random() < 0.8))
            nn.init.normal_(modules[-1].running_mean)
            nn.init.uniform_(modules[-1].running_var, 0.3, 3)
            if modules[-1].affine:
                nn.init.normal_(modules[-1].weight)
                nn.init.normal_(modules[-1].bias)
        self.size = tuple((extent + 2 * pad - side) // by + 1 for extent, pad, side, by in zip(
            self.size, padding, kernel, stride, strict=True))
        self.channels = filters
        return nn.Sequential(*modules)

    def add_conv(self):
        kernel = tuple(self.random.randint(1, min(3, extent)) for extent in self.size)
        stride = tuple(self.random.randint(1, 2) for _ in self.size)
        padding = tuple(self.random.randint(0, side - 1) for side in kernel)
        if self.random.random() < 0.3:
            # Above and on the left there may be more zeros than below and on the right.
            ahead = [self.random.randint(0, side - 1 - pad)
                     for side, pad in zip(kernel, padding, strict=True)]
            self.size = tuple(extent + more for extent, more in zip(self.size, ahead, strict=True))
            self.step("pad", nn.ZeroPad2d((ahead[1], 0, ahead[0], 0)))
        self.step("call", self.conv(self.random.randint(1, 4), kernel, stride, padding))
        if self.random.random() < 0.3:
            self.step("dropout", nn.Dropout2d(0.2))
        if self.random.random() < 0.7:
            self.step("relu")

    def add_residual(self):
        before, filters = self.channels, self.random.randint(1, 4)
        first = self.conv(filters, (3, 3), padding=(1, 1))
        second = self.conv(filters, (1, 1))
        if before == filters:
            short = nn.Identity()
        else:
            self.channels = before
            short = self.conv(filters, (1, 1))
        self.step("residual", first, second, short)
        if self.random.random() < 0.7:
            self.step("relu")

    def add_dense_block(self):
        """As in DenseNet: what a convolution makes of the map goes behind it."""
        before, filters = self.channels, self.random.randint(1, 4)
        first = self.conv(filters, (3, 3), padding=(1, 1))
        self.channels = before + filters
        self.step("dense_block", first)
        if self.random.random() < 0.5:
            self.step("relu")

    def add_pool(self):
        if min(self.size) >= 2:
            self.step(self.random.choice(("maximum", "average")), nn.MaxPool2d(2), nn.AvgPool2d(2))
            self.size = self.size[0] // 2, self.size[1] // 2

    def add_end(self, classes):
        area = self.size[0] * self.size[1]
        if not area & (area - 1) and self.random.random() < 0.5:
            self.step("global", nn.AdaptiveAvgPool2d(1))
            area = 1
        self.step("flatten", nn.Flatten())
        values = area * self.channels
        if self.random.random() < 0.4:
            self.step("call", nn.Linear(values, 5), nn.BatchNorm1d(5))
            self.step("relu")
            values = 5
        self.step("dropout", nn.Dropout(0.3))
        self.step("call", nn.Linear(values, classes, bias=self.random.random() < 0.5))

    def forward(self, x):
        for name, index, way in self.steps:
            x = getattr(self, "do_" + name)(x, self.parts[index:], way)
        return x

    def do_call(self, x, parts, way):
        return parts[0](x)

    def do_relu(self, x, parts, way):
        return (self.shared, functional.relu, torch.relu, lambda x: x.relu(),
                lambda x: functional.relu(input=x))[way](x)

    def do_residual(self, x, parts, way):
        y = parts[1](self.do_relu(parts[0](x), parts, way))
        x = parts[2](x)
        return (operator.add, operator.iadd, torch.add, lambda x, y: x.add(y),
                lambda x, y: torch.add(x, other=y))[way](y, x)

    def do_pad(self, x, parts, way):
        left, _, top, _ = parts[0].padding
        return (parts[0], lambda x: functional.pad(x, (left, 0, top, 0)),
                lambda x: functional.pad(x, pad=[left, 0, top, 0], value=0),
                lambda x: functional.pad(x, (left, 0, top, 0), "constant", 0), parts[0])[way](x)

    def do_dense_block(self, x, parts, way):
        y = self.do_relu(parts[0](x), parts, way)
        return (lambda: torch.cat([x, y], 1), lambda: torch.cat((x, y), dim=1),
                lambda: torch.concat([x, y], dim=-3), lambda: torch.cat(tensors=[x, y], dim=1),
                lambda: torch.concatenate((x, y), 1))[way]()

    def do_dropout(self, x, parts, way):
        return parts[0](x) if way else functional.dropout(x, 0.1, self.training)

    def do_maximum(self, x, parts, way):
        return (parts[0], parts[0], lambda x: functional.max_pool2d(x, 2),
                lambda x: torch.max_pool2d(x, (2, 2), stride=2),
                lambda x: functional.max_pool2d(kernel_size=2, input=x))[way](x)

    def do_average(self, x, parts, way):
        return parts[1](x) if way < 2 else functional.avg_pool2d(x, 2)

    def do_global(self, x, parts, way):
        return (parts[0], lambda x: x.mean((2, 3)), lambda x: torch.mean(x, dim=[-1, -2]),
                lambda x: x.mean((2, 3), keepdim=True),
                lambda x: functional.adaptive_avg_pool2d(x, (1, 1)))[way](x)

    def do_flatten(self, x, parts, way):
        return (parts[0], lambda x: x.flatten(1), lambda x: torch.flatten(x, start_dim=1),
                lambda x: x.view(x.size(0), -1), lambda x: x.reshape(x.shape[0], -1))[way](x)


def random_net(seed):
    torch.manual_seed(seed)
    shuffled = random.Random(seed + 1)
    tensor = TensorType((shuffled.randint(3, 9), shuffled.randint(3, 9), shuffled.randint(1, 3)),
                        ActivationFormat(shuffled.randint(1, 8), signed=shuffled.random() < 0.5),
                        shuffled.randint(-6, 0))
    return RandomNet(seed, tensor), tensor, shuffled


@given(seed=SEEDS)
@settings(max_examples=25)
def test_the_float_network_is_the_module(seed):
    net, tensor, _ = random_net(seed)
    net.train(seed % 2 == 0)
    kept = {name: value.clone() for name, value in net.state_dict().items()}
    converted = convert(net, tensor)
    assert net.training == (seed % 2 == 0)
    assert all(torch.equal(value, kept[name]) for name, value in net.state_dict().items())
    samples = images(tensor)
    with torch.no_grad():
        wanted = net.eval()(samples * 2.0 ** tensor.scale)
        found = converted.eval()(samples.float())
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4 * max(1, wanted.abs().max()))


def some_settings(shuffled):
    return LayerSettings(
        method=shuffled.choice(("flightnn", "lightnn1", "lightnn2", "fixed")),
        exponent_bits=shuffled.randint(1, 4), max_terms=shuffled.randint(1, 3),
        weight_bits=shuffled.randint(2, 8), activation_bits=shuffled.randint(1, 16),
        residual_bits=shuffled.randint(2, 16), scale_span=shuffled.choice((0, 3, 31)))


@given(seed=SEEDS)
@settings(max_examples=25)
def test_every_export_is_the_folded_network(seed):
    """All methods and widths, mixed by layer."""
    net, tensor, shuffled = random_net(seed)
    layers = {name: some_settings(shuffled)
              for name, layer in convert(net, tensor).layers.items()
              if not isinstance(layer, (nn.MaxPool2d, nn.Dropout, nn.Dropout2d))}
    converted = convert(net, tensor, layers=layers, logit_bits=shuffled.randint(2, 16))
    samples = images(tensor, 40)
    converted.eval().fold(samples.float())
    model = export(converted, "net", {})
    assert modelfile.check(model) == []
    mismatches, logits = compare(converted, model, samples)
    assert mismatches == 0
    assert logits.shape == (40, 3)
    exported = {layer.name for layer in model.layers}
    for name, layer in converted.layers.items():
        assert (name in exported) != isinstance(layer, (nn.Dropout, nn.Dropout2d))
        if isinstance(layer, QuantizedLayer):
            chosen = layers[name]
            form = next(each for each in model.layers if each.name == name).format
            assert form == (FixedFormat(chosen.weight_bits) if chosen.method == "fixed"
                            else TermFormat(chosen.exponent_bits))


class Example(nn.Module):
    """As in the best known of all examples, the pooling comes in front of the ReLU."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, (3, 1), stride=(1, 2), padding=(1, 0))
        self.drop = nn.Dropout2d()
        self.conv2 = nn.Conv2d(4, 4, 3, padding="same")
        self.dense = nn.Linear(32, 3)
        self.aside = nn.Linear(32, 9)

    def forward(self, x, option=None):
        skip = functional.relu(functional.max_pool2d(self.conv1(x), (2, 1)))
        x = functional.relu(functional.max_pool2d(self.drop(self.conv2(skip)), 1)) + skip
        x = functional.avg_pool2d(x, (1, 2)).reshape(x.shape[0], -1)
        self.aside(x)           # of which the result does not depend
        return self.dense(x)


def test_a_relu_behind_a_pooling_moves_in_front():
    net = Example()
    converted = convert(net, IMAGE)
    assert [(node.name, node.inputs) for node in converted.nodes] == [
        ("conv1", ("input",)), ("pool1", ("conv1",)), ("conv2", ("pool1",)), ("drop", ("conv2",)),
        ("add1", ("drop", "pool1")), ("sum_pool1", ("add1",)), ("dense", ("sum_pool1",))]
    assert converted.layers["conv1"].output == ActivationFormat(8)
    assert converted.layers["conv2"].output == ActivationFormat(8)
    assert converted.layers["drop"] is not net.drop
    samples = images(IMAGE)
    converted.eval().fold(samples.float())
    model = export(converted, "net", {})
    assert modelfile.check(model) == []
    assert [type(layer) for layer in model.layers] == [Convolution, MaxPool, Convolution, Add,
                                                       SumPool, Dense]
    assert model.layers[0].stride == (1, 2)
    assert model.layers[0].padding == (1, 1, 0, 0)
    assert compare(converted, model, samples)[0] == 0


def net_of(*modules, dense=True):
    net = nn.Sequential(*modules)
    if dense:
        try:
            values = net(torch.zeros(2, 2, 8, 8))[0].numel()
        except (RuntimeError, UserWarning):
            values = 256 if getattr(modules[0], "padding", 0) == "same" else 144
        net.extend([nn.Flatten(), nn.Linear(values, 3)])
    return net


class Calls(nn.Module):
    """Two convolutions, and a function of their results."""

    def __init__(self, call):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(2, 4, 3), nn.Conv2d(2, 4, 3)
        self.norm, self.relu, self.dense = nn.BatchNorm2d(4), nn.ReLU(), nn.Linear(144, 3)
        self.call = call

    def forward(self, x):
        return self.call(self, x)


def ends(net, x):
    return net.dense(x.flatten(1))


class TwoImages(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 3, 8)

    def forward(self, x, y):
        return self.conv1(x + y)


def twice(net, x):
    x = net.conv1(x) + net.conv1(x)
    return ends(net, x)


def norm_twice(net, x):
    return ends(net, net.norm(net.conv1(x)) + net.norm(net.conv2(x)))


def before_and_behind(net, x):
    x = net.conv1(x)
    return ends(net, net.relu(x) + x)


def before_and_behind_hidden(net, x):
    x = net.conv1(x)
    y = x.contiguous()
    return ends(net, net.relu(y) + x)


def norm_and_without(net, x):
    x = net.conv1(x)
    return ends(net, x + net.norm(x))


def logits_before_relu(net, x):
    x = ends(net, net.conv1(x))
    functional.relu(x)
    return x


def stacked(net, x):
    return ends(net, torch.stack([net.conv1(x), net.conv2(x)], 1))


def concatenated_along_rows(net, x):
    return ends(net, torch.cat([net.conv1(x), net.conv2(x)], 2))


def concatenated_with_a_constant(net, x):
    return ends(net, torch.cat([net.conv1(x), torch.zeros(1, 1, 6, 6)], 1))


def concatenated_alone(net, x):
    return ends(net, torch.cat([net.conv1(x)], 1))


def padded_behind_flatten(net, x):
    return net.dense(functional.pad(net.conv1(x).flatten(1), (0, 0)))


def concatenated_sizes(net, x):
    return ends(net, torch.cat([net.conv1(x), x], 1))


def concatenated_behind_flatten(net, x):
    return net.dense(torch.cat([net.conv1(x).flatten(1), net.conv2(x).flatten(1)], 1))


def multiplied(net, x):
    return ends(net, net.conv1(x) * net.conv2(x))


def plus_one(net, x):
    return ends(net, net.conv1(x) + 1)


def doubled(net, x):
    return ends(net, torch.add(net.conv1(x), net.conv2(x), alpha=2))


def conditional(net, x):
    return ends(net, net.conv1(x) if x.sum() > 0 else net.conv2(x))


def pair(net, x):
    return ends(net, net.conv1(x)), x


def added(net, x):
    return ends(net, net.conv1(x) + net.conv2(x))


def tied():
    net = Calls(added)
    net.conv2.weight = net.conv1.weight
    return net


def raw(net, x):
    return ends(net, functional.conv2d(x, net.conv1.weight))


def silently_changed(net, x):
    x = net.conv1(x)
    functional.relu_(x)
    return ends(net, x)


def not_flat(net, x):
    return net.dense(net.conv1(x))


def whole_batch(net, x):
    return net.dense(net.conv1(x).flatten())


def norm_of_values(net, x):
    return ends(net, nn.functional.batch_norm(net.conv1(x), None, None))


def random_in_evaluation(net, x):
    return ends(net, functional.dropout(net.conv1(x), 0.5))


def convolution(*arguments, **options):
    return nn.Conv2d(2, 4, *arguments, **options)


@pytest.mark.parametrize(("net", "message"), [
    (net_of(convolution(3), nn.ZeroPad2d(1), nn.MaxPool2d(5)), "be followed by a convolution"),
    (net_of(nn.ConstantPad2d(1, 2.0), convolution(3)), "padding must be with zeros"),
    (net_of(nn.ZeroPad2d((-1, 1, 0, 0)), convolution(3)), "only rows and columns can be padded, "),
    (net_of(nn.ZeroPad2d(2), convolution(3, padding=1)), "(top 3, bottom 3, left 3, right 3) must"),
    (Calls(padded_behind_flatten), "must not stand behind a Flatten: it needs rows and columns"),
    (net_of(nn.Conv2d(2, 3, 8), nn.ZeroPad2d(1), dense=False), "its result has zeros around it"),
    (net_of(convolution(3, dilation=2)), "dilation must be 1"),
    (net_of(convolution(3, padding=1, padding_mode="reflect")), "padding must be with zeros"),
    (net_of(convolution(1, padding=1)), "padding (top 1, bottom 1, left 1, right 1) must be"),
    (net_of(convolution(9)), "an image of 8 x 8 is too small"),
    (net_of(nn.Conv2d(3, 4, 3)), "it takes 3 channels, but its input has 2"),
    (net_of(convolution(3), nn.GELU()), "1 (GELU): it is not supported: use nn.ReLU"),
    (net_of(convolution(3), nn.ReLU6()), "1 (ReLU6): it is not supported: use nn.ReLU: values"),
    (net_of(convolution(2), nn.AvgPool2d(7)), "averages 49 values"),
    (net_of(convolution(2), nn.AdaptiveAvgPool2d(1)), "averages 49 values"),
    (net_of(convolution(3), nn.AdaptiveAvgPool2d(4)), "4 x 4 windows do not divide the map"),
    (net_of(convolution(3), nn.AvgPool2d(2, divisor_override=3)), "divisor_override"),
    (net_of(convolution(3), nn.MaxPool2d(2, padding=1)), "pooling with padding"),
    (net_of(convolution(3), nn.MaxPool2d(2, ceil_mode=True)), "dilation or ceil_mode"),
    (net_of(nn.BatchNorm2d(2), convolution(3)), "must stand directly behind a convolution"),
    (net_of(nn.MaxPool2d(2), nn.BatchNorm2d(2)), "must stand directly behind a convolution"),
    (net_of(convolution(3), nn.ReLU(), nn.BatchNorm2d(4)), "must stand directly behind"),
    (net_of(convolution(3), nn.BatchNorm2d(4, track_running_stats=False)), "track_running_stats"),
    (net_of(convolution(3), nn.BatchNorm2d(5)), "has 5 features, but conv1 has 4 channels"),
    (net_of(convolution(3), nn.LayerNorm([6, 6])), "(LayerNorm): it is not supported: use"),
    (net_of(nn.ReLU(), convolution(3)), "0 (ReLU): must stand behind a convolution"),
    (net_of(convolution(3), nn.Flatten(2)), "use flatten(1)"),
    (net_of(convolution(8), dense=False), None),
    (net_of(convolution(7), dense=False), "must be one row and one column, not 2 x 2"),
    (net_of(convolution(8), nn.ReLU(), dense=False), "the last layer gives the logits"),
    (net_of(nn.MaxPool2d(8), dense=False), "the last layer gives the logits"),
    (net_of(convolution(3), nn.Flatten(), nn.Linear(100, 3), dense=False),
     "it takes 100 values, but its input has 4 x 6 x 6"),
    (net_of(convolution(3), nn.Flatten(), nn.BatchNorm1d(144)), "must stand|use nn.BatchNorm2d"),
    (net_of(convolution(3), nn.Flatten(), nn.MaxPool2d(2), dense=False), "behind a Flatten"),
    (net_of(convolution(3), nn.Softmax(1)), "the class is the largest logit"),
    (net_of(nn.Conv2d(2, 4097, 1)), "has 4097 filters: at most 4096"),
    (TwoImages(), "it takes 2 tensors: a network takes one image"),
    (Calls(twice), "conv1 (Conv2d): shares its weights with conv1"),
    (Calls(norm_twice), "norm (BatchNorm2d): shares its weights with norm"),
    (tied(), "conv2 (Conv2d): shares its weights with conv1"),
    (Calls(before_and_behind), "the value of conv1 in front of it is used elsewhere too"),
    (Calls(before_and_behind_hidden), "the value of conv1 in front of it is used elsewhere too"),
    (Calls(norm_and_without), "the value of conv1 in front of it is used elsewhere too"),
    (Calls(logits_before_relu), "the value of dense in front of it is used elsewhere too"),
    (Calls(stacked), "stack (stack): it is not supported: use torch.cat along the channels"),
    (Calls(concatenated_along_rows), "only be concatenated along their channels, dim=1, not dim=2"),
    (Calls(concatenated_with_a_constant), "reads a parameter directly"),
    (Calls(concatenated_alone), "2 to 16 feature maps can be concatenated, not 1"),
    (Calls(concatenated_sizes), "must have the same rows and columns, not (4, 6, 6) and (2, 8, 8)"),
    (Calls(concatenated_behind_flatten), "concatenate the maps along their channels before the"),
    (Calls(multiplied), "mul (mul): it is not supported: only additions and torch.cat join"),
    (Calls(plus_one), "only two feature maps can be added"),
    (Calls(doubled), "only two feature maps can be added"),
    (Calls(conditional), "cannot be traced by torch.fx"),
    (Calls(pair), "its result must be one tensor"),
    (Calls(silently_changed), "the value of conv1 in front of it is used elsewhere too"),
    (Calls(not_flat), "must stand behind a Flatten"),
    (Calls(whole_batch), "must keep the first dimension"),
    (Calls(norm_of_values), "it is not supported: use nn.BatchNorm2d or"),
    (Calls(random_in_evaluation), "what is random in evaluation"),
])
def test_what_is_not_supported(net, message):
    if message is None:
        assert len(convert(net, IMAGE).nodes) == 1
        return
    with pytest.raises(ConversionError) as error:
        convert(net, IMAGE)
    assert any(each in str(error.value) for each in message.split("|"))
    assert len(error.value.problems) == 1


def test_all_problems_in_one_error():
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=2, dilation=2), nn.GELU(), nn.Conv2d(3, 4, 3),
        nn.AvgPool2d(2), nn.Conv2d(4, 8, 1, padding_mode="circular", padding=1), nn.Softmax(1),
        nn.Flatten(), nn.Linear(9, 3), nn.ReLU())
    with pytest.raises(ConversionError) as error:
        convert(net, IMAGE)
    found = "\n".join(error.value.problems)
    for text in ("0 (Conv2d): dilation", "1 (GELU)", "2 (Conv2d): it takes 3 channels",
                 "4 (Conv2d): padding must be with zeros", "4 (Conv2d): padding (top 1, ",
                 "5 (Softmax)", "7 (Linear): it takes 9 values", "the last layer gives the logits"):
        assert found.count(text) == 1, text
    assert len(error.value.problems) == 8
    with pytest.raises(ConversionError, match="(?s)conv1_weight .attribute.: reads a parameter dir"
                                              ".*conv2d .conv2d.: .* use nn.Conv2d"):
        convert(Calls(raw), IMAGE)
    assert str(error.value).startswith("the network cannot be converted:\n  0 (Conv2d): dilation")


def test_settings_of_a_layer_that_is_not_there():
    net = net_of(convolution(3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3), dense=False)
    for name in ("conv7", "pool1"):
        with pytest.raises(UserError, match=f"no layer '{name}'.*conv1, dense1$"):
            convert(net, IMAGE, layers={name: LayerSettings()})


def test_names_are_legal_and_unique():
    net = nn.Sequential()
    net.add_module("Größe", nn.Conv2d(2, 2, 1))
    net.add_module("x" * 70, nn.Conv2d(2, 2, 1))
    net.add_module("input", nn.Conv2d(2, 2, 1))
    net.add_module("conv1", nn.Conv2d(2, 2, 1))
    net.add_module("CONV1", nn.Conv2d(2, 2, 8))
    converted = convert(net, IMAGE)
    assert [node.name for node in converted.nodes] == ["gr__e", "conv2", "conv3", "conv1", "conv4"]
    converted.eval().fold(images(IMAGE).float())
    assert modelfile.check(export(converted, "net", {})) == []


def test_an_addition_of_a_map_with_itself():
    net = Calls(added_to_itself)
    converted = convert(net, IMAGE)
    assert isinstance(converted.layers["add1"], QuantizedAdd)
    converted.eval().fold(images(IMAGE).float())
    model = export(converted, "net", {})
    assert modelfile.check(model) == []
    assert compare(converted, model, images(IMAGE))[0] == 0


def added_to_itself(net, x):
    x = net.relu(net.norm(net.conv1(x)))
    return ends(net, x + x)

"""How many pixels streams carry: what follows from the foldings, and what does not fit."""

import numpy as np
import pytest
from amaranth import Shape, signed
from amaranth.lib.data import ArrayLayout

from flightrtl.formats import ActivationFormat
from flightrtl.gateware.folding import Folding
from flightrtl.gateware.mapstream import map_shape, map_values
from flightrtl.gateware.pool import pooled_pixels
from flightrtl.gateware.transfers import stream_pixels
from flightrtl.model import Add, MaxPool, Model, TensorType
from tests.models import random_layer, random_map

SOURCE = TensorType((4, 8, 2), ActivationFormat(4))


def convolution(name, inputs, k=(1, 1)):
    rng = np.random.default_rng(0)
    return random_layer(rng, "convolution", SOURCE, random_map(rng, SOURCE, 2), name=name,
                        inputs=inputs, kernel=(1, 1), stride=(1, 1), padding=(0, 0, 0, 0), k=k,
                        output=SOURCE.format)


def network(*layers):
    return Model("test", SOURCE, layers)


def test_a_pooling_divides_and_an_addition_keeps():
    layers = (convolution("one", ("input",)), convolution("two", ("one",)),
              Add(name="sum", inputs=("one", "two"), shifts=(0, 0), bias=0, shift=0,
                  output=SOURCE.format),
              MaxPool(name="pool", inputs=("sum",), kernel=(2, 2), stride=(2, 2)))
    found = stream_pixels(network(*layers), {"one": Folding(1, 1, pixels=4),
                                             "two": Folding(1, 1, pixels=4)})
    assert found == {"input": 1, "one": 4, "two": 4, "sum": 4, "pool": 2}


def test_what_does_not_fit_names_the_layers_and_the_remedy():
    add = Add(name="sum", inputs=("one", "two"), shifts=(0, 0), bias=0, shift=0)
    layers = convolution("one", ("input",)), convolution("two", ("one",)), add
    with pytest.raises(ValueError, match="'sum' joins 'one', which gives 4 pixels at a time, and "
                                         "'two', which gives 2: fold them with the same number"):
        stream_pixels(network(*layers), {"one": Folding(1, 1, pixels=4),
                                         "two": Folding(1, 1, pixels=2)})
    pool = MaxPool(name="pool", inputs=("one",), kernel=(3, 3), stride=(2, 2))
    with pytest.raises(ValueError, match="'pool' cannot take 2 pixels at a time with windows of "
                                         "3 columns, stride 2: fold what feeds it with pixels=1"):
        stream_pixels(network(layers[0], pool), {"one": Folding(1, 1, pixels=2)})
    with pytest.raises(ValueError, match="'one' needs a folding"):
        stream_pixels(network(layers[0]), {})


@pytest.mark.parametrize(("pixels", "kernel", "stride", "after"), [
    (1, 3, 2, 1), (2, 2, 2, 1), (8, 2, 2, 4), (2, 8, 8, 1), (3, 2, 2, None), (4, 2, 4, None)])
def test_pixels_behind_a_pooling(pixels, kernel, stride, after):
    assert pooled_pixels(pixels, kernel, stride) == after


def test_one_activation_is_not_an_array():
    form = ActivationFormat(5, True)
    assert map_shape(form) == signed(5)
    assert Shape.cast(map_shape(form, pixels=3, channels=2)).width == 30
    pair = map_shape(form, pixels=2)
    assert isinstance(pair, ArrayLayout)
    assert map_values(pair.from_bits(3 | 31 << 5)) == [3, -1]

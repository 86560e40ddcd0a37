"""The examples in the docstrings of the trainer and of the samples."""

import doctest
import importlib

import pytest

MODULES = ["flightrtl.datasets.imagenet", "flightrtl.samples", "train.__main__",
           "train.activation", "train.augment", "train.convert", "train.distribution",
           "train.mixed.__main__", "train.mixed.recipefile", "train.mixed.search",
           "train.mixed.space", "train.mixed.trial", "train.networks", "train.origin",
           "train.quantizers.base",
           "train.quantizers.binary", "train.quantizers.fixed", "train.quantizers.nbq",
           "train.quantizers.sparse", "train.quantizers.terms", "train.samples", "train.schedule",
           "train.target", "train.verify"]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0

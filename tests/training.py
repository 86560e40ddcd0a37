"""What the tests of several training methods do."""

import numpy as np
import pytest

from flightrtl import modelfile
from flightrtl.model import WeightedLayer
from train import __main__ as command
from train.trainer import Trainer


def interrupt(arguments, stop, monkeypatch):
    """Run a training command and stop it, as Ctrl-C does, after some epochs."""
    original = Trainer.run_epoch

    def interrupted(self, *arguments):
        if self.epoch == stop:
            raise KeyboardInterrupt
        return original(self, *arguments)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            command.main(arguments)


def interrupt_and_resume(options, parts, stop, monkeypatch):
    """Run a training command, stop it after some epochs, resume it; the model that it gives.

    ``options`` end in ``--output``, ``parts`` is the model file, ``stop`` the number of epochs.
    """
    interrupt([*options, str(parts)], stop, monkeypatch)
    assert command.main([*options, str(parts), "--resume"]) == 0
    return modelfile.load(parts)


def assert_same_weights(one, other):
    """Every integer of every layer with weights is the same."""
    for ours, theirs in zip(one.layers, other.layers, strict=True):
        if isinstance(ours, WeightedLayer) and isinstance(theirs, WeightedLayer):
            for name in ("terms", "bias", "shift", "scale"):
                assert np.array_equal(getattr(ours, name), getattr(theirs, name))

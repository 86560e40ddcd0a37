"""Model files of the tests, right ones and wrong ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flightrtl import container, modelfile
from flightrtl.document import describe
from flightrtl.model import Model
from flightrtl.modelfile import ModelError

from .models import random_model


def every_layer() -> Model:
    """A small model with every type of layer."""
    return random_model(np.random.default_rng(7), input_shape=(6, 6, 2), classes=3,
                        kinds=["convolution", "max_pool", "sum_pool", "dense"], max_k=2,
                        exponent_bits=3, activation_bits=4)


def parts_of(model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is in the file of a model: the document without checksum, and the tensors."""
    document, tensors, intact = container.decode(container.encode(*describe(model)))
    assert intact
    return document, tensors


def problems_of(path: Path) -> list[str]:
    with pytest.raises(ModelError) as caught:
        modelfile.load(path)
    assert caught.value.problems
    assert str(path)[:20] in str(caught.value)
    for problem in caught.value.problems[:10]:
        assert problem in str(caught.value)
        assert len(problem) < 1000
        assert problem.isascii()
        assert problem.isprintable()
    return caught.value.problems


def store(path: Path, document: dict[str, Any], tensors: dict[str, Any]) -> None:
    """A file with a right checksum, whatever is in it."""
    path.write_bytes(container.encode(document, tensors))


DELETE = object()


def change(document: Any, place: str, value: object) -> None:
    """Set (or delete) ``document[a][b]...`` for the place ``"a.b..."``."""
    *outer, last = [int(step) if step.isdecimal() else step for step in place.split(".")]
    for step in outer:
        document = document[step]
    if value is DELETE:
        del document[last]
    else:
        document[last] = value


def reports(path: Path, parts: Any, place: str, value: object, message: str) -> None:
    """Whether a file with one entry changed gives that message."""
    document, tensors = parts
    change(document, place, value)
    store(path, document, tensors)
    problems = problems_of(path)
    assert any(re.search(message, problem) for problem in problems), problems
    assert not any("checksum" in problem for problem in problems)

"""How fast a board answers, and whether every logit is the golden model's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import golden, samples
from ..errors import UserError
from ..formats import IntArray
from ..model import Model
from ..progress import Progress
from .device import Answer, Device

__all__ = ["Bench", "bench", "images_for"]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What came of it.

    Parameters
    ----------
    images, answered, failed : int
        Sent; answered; given up.
    mismatches : int
        Answers with a logit or a class that is not the golden model's.
    seconds : float
        All in all.
    latency : (float, float, float)
        Seconds from request to answer: least, median, greatest.
    line : float
        Share of the time in which the slower direction of the line was busy.
    """

    images: int
    answered: int
    failed: int
    mismatches: int
    seconds: float
    latency: tuple[float, float, float]
    line: float

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        least, median, greatest = self.latency
        return {"images": self.images, "answered": self.answered, "failed": self.failed,
                "mismatches": self.mismatches, "seconds": self.seconds,
                "images_per_second": self.answered / self.seconds if self.seconds else None,
                "latency_seconds": {"min": least, "median": median, "max": greatest},
                "line_busy": self.line}


def images_for(model: Model, count: int, seed: int = 0) -> IntArray:
    """Up to ``count`` images for a model: samples of its data set, or else random ones."""
    dataset = model.provenance.get("dataset")
    if dataset in samples.names():
        images, _ = samples.load(str(dataset))
        if images.shape[1:] == model.input.shape:
            return images[:count].astype(np.int64)
    limits = model.input.format
    return np.random.default_rng(seed).integers(limits.min, limits.max + 1,
                                                (min(count, 100), *model.input.shape))


def bench(device: Device, count: int, progress: Progress) -> Bench:
    """Classify images one after the other, and compare every logit with the golden model's.

    Parameters
    ----------
    device : Device
        With a model.
    count : int
        Images.
    progress : Progress
        Where to tell how it goes, in a step of its own.
    """
    if count < 1:
        raise UserError(f"the number of images must be 1 or more, not {count}")
    assert device.model is not None
    images = images_for(device.model, count)
    expected = golden.run(device.model, images)
    answers: list[Answer] = []
    wrong = 0
    started = device.port.now()
    progress.step(f"{count:,} images")
    for number, answer in enumerate(device.classify_all(
            images[n % len(images)] for n in range(count))):
        if isinstance(answer, Answer):
            answers.append(answer)
            wrong += list(answer.logits) != expected[number % len(images)].tolist()
        passed = device.port.now() - started
        progress.update(f"{number + 1:,} of {count:,}, {(number + 1) / max(passed, 1e-9):,.1f} a "
                        "second")
    seconds = device.port.now() - started
    progress.done()
    times = sorted(answer.seconds for answer in answers) or [0.0]
    assert device.frame is not None
    busy = 10 * max(device.frame.request_size, device.frame.answer_size) / device.port.baud
    return Bench(images=count, answered=len(answers), failed=count - len(answers),
                 mismatches=wrong, seconds=seconds,
                 latency=(times[0], times[len(times) // 2], times[-1]),
                 line=min(1.0, busy * len(answers) / seconds) if seconds else 0.0)

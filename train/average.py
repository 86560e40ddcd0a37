"""A moving average of a network's weights over the steps of training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["Average"]


class Average:
    """Exponential moving average of all parameters and statistics (Polyak averaging).

    Parameters
    ----------
    network : nn.Module
        Averaged from now on.
    decay : float
        Weight of the past in each step; less in the first steps, so that the start is forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay, self.steps = network, decay, 0
        self.values = {name: value.detach().clone() for name, value in self._floats()}

    def _floats(self) -> Iterator[tuple[str, Tensor]]:
        for name, value in self.network.state_dict(keep_vars=True).items():
            if value.is_floating_point():
                yield name, value

    @torch.no_grad()
    def update(self) -> None:
        """After every step of the optimizer."""
        self.steps += 1
        share = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, value in self._floats():
            self.values[name].lerp_(value.detach(), share)

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, value in self._floats():
            kept = value.detach().clone()
            value.copy_(self.values[name])
            self.values[name] = kept

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The network has the average instead of its weights while the block runs."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def keep(self) -> None:
        """The average becomes the network's weights for good."""
        for name, value in self._floats():
            value.copy_(self.values[name])

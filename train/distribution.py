"""A loss on the distribution of pre-activations, so that their signs carry information.

Ding, Chin, Liu, Marculescu: *Regularizing Activation Distribution for Training Binarized Deep
Networks*, CVPR 2019, arXiv 1904.02823. Three things can go wrong with what a sign is taken of, the
values of one channel over a batch and all pixels, with mean ``mu`` and standard deviation
``sigma``: all have the same sign (degeneration), most lie where the gradient of the sign's
stand-in, a hard tanh, is zero (saturation), or most lie where it differs most from the sign
(mismatch).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["DISTRIBUTIONS", "distribution_loss"]

DISTRIBUTIONS = ("none", "paper", "code")
"""Values of a recipe's ``distribution``."""

_DEGENERATION, _SATURATION, _MISMATCH = 1.0, 0.25, 0.25
_TINY = 1e-10


def distribution_loss(maps: Sequence[Tensor], form: str) -> Tensor:
    """Mean over layers of the mean over channels of the three penalties.

    With ``[x]+ = max(x, 0)``, ``form`` is one of two, which differ::

        "paper"   [|mu| - sigma]+^2 + [sigma / 4 - 1]+^2 + [1 - |mu| - sigma / 4]+^2
        "code"    [mu^2 - sigma^2]+ + [sigma - 4]+^2 + [2 - |mu| - sigma]+^2

    The first has the paper's formulas and constants, the second is what the authors' released code
    computes. (The paper sums over channels and layers, the code takes the mean; with the mean in
    both, one weight suits networks of every size.)

    Parameters
    ----------
    maps : sequence of Tensor, (N, C, ...)
        Behind the batch norm, of every layer whose result is a sign.
    form : {"paper", "code"}
        Which of the two.

    Returns
    -------
    Tensor
        Zero if there are no maps.

    >>> same = torch.tensor([[3.0], [3.0]])                 # mu = 3, sigma = 0
    >>> [round(distribution_loss([same], form).item(), 3) for form in ("paper", "code")]
    [9.0, 9.0]
    >>> good = torch.tensor([[2.5], [-2.5]])                # mu = 0, sigma = 2.5
    >>> [round(distribution_loss([good], form).item(), 3) for form in ("paper", "code")]
    [0.141, 0.0]
    """
    if form not in DISTRIBUTIONS[1:]:
        raise ValueError(f"the form of the distribution loss must be paper or code, not {form!r}")
    if not maps:
        return torch.zeros(())
    losses = []
    for values in maps:
        flat = values.float().transpose(0, 1).flatten(1)
        mean = flat.mean(dim=1)
        variance = flat.var(dim=1, correction=0) + _TINY
        deviation, away = variance.sqrt(), mean.abs()
        if form == "paper":
            loss = ((away - _DEGENERATION * deviation).relu().square()
                    + (_SATURATION * deviation - 1).relu().square()
                    + (1 - away - _MISMATCH * deviation).relu().square())
        else:
            loss = ((mean.square() - variance).relu() + (deviation - 4).relu().square()
                    + (2 - away - deviation).relu().square())
        losses.append(loss.mean())
    return torch.stack(losses).mean()

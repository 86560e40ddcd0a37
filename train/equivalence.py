"""Whether a converted network computes what the given module computes, on a few images."""

from __future__ import annotations

import torch
from torch import nn

from .network import Network

__all__ = ["difference"]

_IMAGES = 2


@torch.no_grad()
def difference(module: nn.Module, network: Network) -> float:
    """Greatest difference between two networks' logits, relative to the greatest logit.

    Parameters
    ----------
    module : nn.Module
        In evaluation; takes images in real numbers.
    network : Network
        In its float stage.

    Returns
    -------
    float
        About 1e-6 for equal functions; 0 if the module's logits are not finite, for then there is
        nothing to compare.

    Raises
    ------
    ValueError
        If the module gives something else than logits.
    """
    image = network.input
    height, width, channels = image.shape
    generator = torch.Generator().manual_seed(0)      # not the global one: runs stay repeatable
    images = torch.randint(image.format.min, image.format.max + 1,
                           (_IMAGES, channels, height, width), generator=generator).float()
    wanted = module(images * 2.0 ** image.scale)
    training = network.training
    found = network.eval()(images)
    network.train(training)
    if wanted.shape[0] != _IMAGES or wanted.numel() != found.numel():
        raise ValueError(f"its result has the shape {tuple(wanted.shape)} for {_IMAGES} images")
    wanted = wanted.reshape(found.shape)
    if not bool(wanted.isfinite().all()):
        return 0.0
    return float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-20))

"""What to do about layers that hardware cannot compute: hints for :mod:`train.tracing`."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import nn
from torch.nn import functional

__all__ = ["PASSING", "hint"]

_HINTS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("use nn.ReLU: values are clamped to the activation format anyway",
     (nn.ReLU6, functional.relu6, nn.Hardtanh, functional.hardtanh)),
    ("use nn.ReLU", (nn.LeakyReLU, functional.leaky_relu, nn.GELU, functional.gelu, nn.SiLU,
                     functional.silu, nn.Hardswish, functional.hardswish, nn.PReLU, nn.ELU,
                     functional.elu, nn.Tanh, torch.tanh, "tanh", nn.Mish, functional.mish)),
    ("use nn.ReLU, or leave it out behind the logits",
     (nn.Sigmoid, functional.sigmoid, torch.sigmoid, "sigmoid")),
    ("leave it out: the class is the largest logit",
     (nn.Softmax, functional.softmax, torch.softmax, "softmax", nn.LogSoftmax,
      functional.log_softmax, torch.log_softmax, "log_softmax", torch.argmax, "argmax")),
    ("use torch.cat along the channels, or add the maps",
     (torch.stack, torch.hstack, torch.vstack)),
    ("only additions and torch.cat join branches, and constants belong into a layer's weights",
     (operator.mul, operator.imul, torch.mul, "mul", "mul_", operator.sub, operator.isub, torch.sub,
      "sub", operator.truediv, torch.div, "div", operator.matmul, torch.matmul, operator.neg)),
    ("use nn.BatchNorm2d", (nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d, nn.LocalResponseNorm)),
    ("use nn.Conv2d", (functional.conv2d, nn.Conv1d, nn.Conv3d, nn.ConvTranspose2d)),
    ("use nn.Linear", (functional.linear, nn.Bilinear)),
    ("use nn.BatchNorm2d or nn.BatchNorm1d", (functional.batch_norm,)),
    ("use flatten(1)", ("squeeze", torch.squeeze, "permute", torch.permute, "transpose",
                        torch.transpose, "unsqueeze", torch.unsqueeze)),
)
_BY_CALL = {call: text for text, calls in _HINTS for call in calls}

PASSING = frozenset(call for text, calls in _HINTS for call in calls
                    if text.startswith(("use nn.ReLU", "use nn.BatchNorm2d", "leave it out",
                                        "only additions and torch.cat")))
"""Their result has the shape of their (first) input."""


def hint(what: object) -> str:
    """Why a class of modules, a function or a method is not supported, and what to do.

    >>> hint(nn.GELU)
    'it is not supported: use nn.ReLU'
    """
    return "it is not supported: " + _BY_CALL.get(
        what, "see the documentation of convert() for what is, or leave it out")

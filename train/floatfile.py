"""A float network on disk: where quantized training can start from.

A safetensors file (no pickle: a file from a stranger is safe to open) with the state of a
:class:`~train.network.Network` in its float stage, and, as JSON in its metadata, what it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from flightrtl.errors import UserError
from flightrtl.files import atomic_path

from .network import Network
from .recipe import Recipe

__all__ = ["load", "provenance", "save"]

_FORMAT = "flightrtl float network"
_QUANTIZED = (".quantizer.", ".live_norm.", ".folded", ".input_scale", ".output_scale")
_SAME = ("dataset", "network")


def _state(network: Network) -> dict[str, Tensor]:
    """What a float network consists of: nothing of the method it may be quantized with."""
    return {name: value for name, value in network.state_dict().items()
            if not any(part in name for part in _QUANTIZED)}


def save(network: Network, path: Path, provenance: Mapping[str, Any]) -> None:
    """Write a network in its float stage; ``provenance`` needs ``dataset`` and ``network``."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in _state(network).items()}
    text = json.dumps({"format": _FORMAT, **provenance})
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {"flightrtl": text})


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a file says of itself, and its tensors."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("flightrtl", "{}"))
            tensors = {name: file.get_tensor(name) for name in set(file.keys())}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; train one with --method float") from None
    except (SafetensorError, OSError, json.JSONDecodeError, RecursionError,
            AttributeError) as error:
        raise UserError(f"{path}: not a float network, or damaged ({type(error).__name__}); train "
                        "one with --method float") from None
    if not isinstance(about, dict) or about.get("format") != _FORMAT:
        raise UserError(f"{path}: this is not a float network (a model file cannot be trained any "
                        "further); train one with --method float")
    return about, tensors


def provenance(path: Path) -> dict[str, Any]:
    """The provenance of what :func:`save` wrote.

    Raises
    ------
    UserError
        If the file is missing, damaged or something else.
    """
    return _read(path)[0]


def load(network: Network, path: Path, recipe: Recipe) -> dict[str, Any]:
    """Read what :func:`save` wrote into a network in its float stage; its provenance.

    Raises
    ------
    UserError
        If the file is missing, damaged, something else, or of another network or data set.
    """
    about, tensors = _read(path)
    for key in _SAME:
        if about.get(key) != getattr(recipe, key):
            raise UserError(f"{path}: a float network of {key} {about.get(key)!r}, but this run "
                            f"has {getattr(recipe, key)!r}; give --{key} {about.get(key)}, or "
                            "another file")
    mine = _state(network)
    if mine.keys() != tensors.keys() or any(mine[name].shape != tensors[name].shape
                                            for name in mine):
        raise UserError(f"{path}: its layers are not those of network {recipe.network!r}; an "
                        "older version may have written it: train one again with --method float")
    for name, value in tensors.items():
        if not bool(value.isfinite().all()):
            raise UserError(f"{path}: {name} has values that are not finite: its training "
                            "diverged; train one again with a lower learning rate")
    network.load_state_dict(tensors, strict=False)
    return about

"""Weights for a design that can load them."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping

import numpy as np

from ..errors import UserError
from ..model import Model
from ..protocol import shape_hash
from .device import Device

__all__ = ["check_loadable", "load_weights", "read_memories"]

_PIECE = 32
"""Bytes in one request, at most: no longer than the image of any network, so it fits the device."""


def read_memories(path: str | os.PathLike[str]) -> dict[int, bytes]:
    """The contents of a design's memories, from a file of NumPy (``.npz``).

    Each array in it is of ``uint8``, and its name is the memory's number.

    Raises
    ------
    UserError
        If it is no such file.
    """
    name = os.fspath(path)
    try:
        with np.load(name, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except FileNotFoundError:
        raise UserError(f"{name}: there is no such file") from None
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile):
        raise UserError(f"{name}: this is not a file of memory contents (.npz)") from None
    for key, array in arrays.items():
        if not (key.isdecimal() and int(key) <= 0xFF and array.dtype == np.uint8
                and array.ndim == 1 and array.size <= 1 << 16):
            raise UserError(f"{name}: memory {key!r} must have a number up to 255, and up to "
                            "65,536 bytes as uint8")
    return {int(key): array.tobytes() for key, array in arrays.items()}


def check_loadable(device: Device, model: Model) -> None:
    """Refuse a model that a device cannot load.

    Raises
    ------
    UserError
        If the design's weights are fixed, or it is one for other layers.
    """
    if not device.identity.loadable:
        raise UserError("the weights of the design on the board are fixed: build a bitstream of "
                        f"{model.name!r} instead (python -m flightrtl.build --model ...)")
    if shape_hash(model) != device.identity.shape:
        raise UserError(f"the design on the board is for other layers than those of "
                        f"{model.name!r}: only weights of the same layers, formats and terms per "
                        "filter can be loaded")


def load_weights(device: Device, model: Model, sha256: str, memories: Mapping[int, bytes],
                 progress: Callable[[str], None] = lambda text: None) -> int:
    """Load a model's weights, after which the device names that model.

    Parameters
    ----------
    device : Device
        Made with ``any_model``.
    model : Model
        Of the same layers as the one on the board.
    sha256 : str
        Of its file.
    memories : mapping of int to bytes
        The content of each memory, by its number in the design.
    progress : callable
        Told how far it is.

    Returns
    -------
    int
        Bytes that were loaded.

    Raises
    ------
    UserError, DeviceError
        If the device cannot load it, or does not answer.
    """
    check_loadable(device, model)
    total = sum(map(len, memories.values()))
    done = 0
    for number, data in memories.items():
        for start in range(0, len(data), _PIECE):
            device.load(number, start, data[start:start + _PIECE])
            done += len(data[start:start + _PIECE])
            progress(f"{done:,} of {total:,} bytes")
    device.commit(sha256)
    return total

"""Weights for a design that can load them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from ..model import Model
from .device import Device

if TYPE_CHECKING:   # Amaranth, for those who load weights only
    from ..contents import Shape

__all__ = ["BUILDS", "find_shape", "load_weights"]

BUILDS = Path("build")
"""Where builds leave their results unless told otherwise."""


def find_shape(device: Device, folder: Path | None = None) -> Shape:
    """What is known of the design on a board: which models it takes, and how its memories lie.

    Parameters
    ----------
    device : Device
        Made with ``any_model``.
    folder : Path, optional
        Where the design was built. By default all folders below :data:`BUILDS` are looked through
        for the design that the board names.

    Raises
    ------
    UserError
        If the design's weights are fixed, or that folder holds another design or none.
    """
    from ..blank import DESIGN, BlankDesign

    identity, wanted = device.identity, device.identity.shape.hex()
    if not identity.loadable:
        raise UserError("the weights of the design on the board are fixed: build one that can load "
                        "others (python -m flightrtl.build --weights loadable)")
    if folder is not None:
        shape = BlankDesign.load(folder).shape
        if shape.hash != wanted:
            raise UserError(f"the design on the board (shape {wanted}) is not the one in {folder} "
                            f"(shape {shape.hash}): name the folder that it was built in")
        return shape
    if (design := BlankDesign.find(wanted, below=BUILDS)) is None:
        raise UserError(f"no folder {BUILDS / '*' / '*' / DESIGN} is of the design on the board "
                        f"(shape {wanted}): name the one that it was built in with --design")
    return design.shape


def load_weights(device: Device, model: Model, sha256: str, shape: Shape,
                 progress: Callable[[str], None] = lambda text: None) -> int:
    """Load a model's weights, after which the device computes and names that model.

    If this does not come to its end, the device refuses images until weights are loaded.

    Parameters
    ----------
    device : Device
        The device, whose ``model`` it becomes.
    model : Model
        One that fits the design.
    sha256 : str
        Of its file.
    shape : Shape
        Of the design, from :func:`find_shape`.
    progress : callable
        Told how far it is.

    Returns
    -------
    int
        Bytes that were loaded.

    Raises
    ------
    UserError, DeviceError
        If the model does not fit the design, with every reason; or the device does not answer.
    """
    from ..contents import loads

    network = shape.network(shape.fit(model))
    pieces = list(loads(network.memories, device.load_bytes))
    for done, (number, address, data) in enumerate(pieces):
        progress(f"{done:,} of {len(pieces):,} pieces")
        device.load(number, address, data)
    device.commit(model, sha256)
    return sum(len(data) for _, _, data in pieces)

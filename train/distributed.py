"""Training on several devices at once, started by ``torchrun``.

Every process has the whole network and the whole data set, computes its share of each batch, and
averages gradients with the others (PyTorch's ``DistributedDataParallel``). The first process
evaluates and writes the files.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from flightrtl.errors import UserError

from .network import Network

__all__ = ["Group", "join"]


@dataclass(frozen=True)
class Group:
    """The processes of a run; one, unless ``torchrun`` started more.

    Parameters
    ----------
    rank : int
        Number of this process, from 0.
    size : int
        Processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process reports and writes files."""
        return self.rank == 0

    def share(self, batch: int) -> int:
        """Images of a batch that each process takes.

        >>> Group(0, 4).share(128)
        32

        Raises
        ------
        UserError
            If they cannot be shared evenly.
        """
        if batch % self.size:
            raise UserError(f"batch_size {batch} cannot be shared by {self.size} processes; use a "
                            f"multiple of {self.size}")
        return batch // self.size

    def wrap(self, network: Network) -> nn.Module:
        """The network with gradients averaged over all processes."""
        if self.size == 1:
            return network
        # What the quantizers learn has no gradient before the quantized stage.
        return DistributedDataParallel(network, find_unused_parameters=not network.folded)


def join(device: str) -> tuple[Group, str]:
    """The place of this process among those that ``torchrun`` started, and its device.

    Parameters
    ----------
    device : str
        ``cuda`` becomes the GPU with the process's number on its machine.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Group(), device
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return Group(distributed.get_rank(), size), device

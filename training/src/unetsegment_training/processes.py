"""Several processes that train one model: how many there are, which one this is, and what they tell each other.

PyTorch's ``torchrun``, SLURM's ``srun`` and Lightning's own launcher say it in the environment. PyTorch is imported when
something is told.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .dataset import DatasetError

if TYPE_CHECKING:
    import torch


DEVICES = ("auto", "cpu", "gpu")


@dataclass(frozen=True)
class Layout:
    """Processes per computer, and computers."""

    devices: int = 1
    nodes: int = 1

    @property
    def world(self) -> int:
        """All processes."""
        return self.devices * self.nodes

    @classmethod
    def of(cls, devices: int | None = None, nodes: int | None = None) -> Layout:
        """As the environment says, and where it says nothing, as asked; one process by default.

        Raises:
            DatasetError: Something else was asked than the launcher started, or less than one.
        """
        if min(devices or 1, nodes or 1) < 1 or 0 in (devices, nodes):
            raise DatasetError("--devices and --nodes are 1 or more.")
        started = _started()
        if started is None:
            return cls(devices or 1, nodes or 1)
        for name, asked, there in (("devices", devices, started.devices), ("nodes", nodes, started.nodes)):
            if asked not in (None, there):
                raise DatasetError(
                    f"--{name} {asked} was asked for, but {started.devices} processes on each of {started.nodes} nodes "
                    f"were started; leave --{name} out."
                )
        return started


def require(device: str, layout: Layout) -> None:
    """See that the devices are here.

    Raises:
        DatasetError: There is no such device, or there are fewer than asked for.
    """
    import torch

    if device not in DEVICES:
        raise DatasetError(f"There is no device '{device}'; choose {', '.join(DEVICES[:-1])} or {DEVICES[-1]}.")
    gpus = torch.cuda.device_count() or int(torch.backends.mps.is_available())
    if device == "gpu" and not gpus:
        raise DatasetError("PyTorch finds no GPU on this computer; leave --device out to train on the processor.")
    if layout.devices > max(gpus, 1) and (device == "gpu" or (device == "auto" and gpus)):
        raise DatasetError(
            f"--devices {layout.devices} was asked for, but PyTorch finds {gpus} GPU{'s' * (gpus != 1)} here."
        )


def _started() -> Layout | None:
    """What torchrun or srun started."""
    there = os.environ
    if "LOCAL_WORLD_SIZE" in there and "WORLD_SIZE" in there:
        local = int(there["LOCAL_WORLD_SIZE"])
        return Layout(local, int(there["WORLD_SIZE"]) // local)
    tasks, nodes = int(there.get("SLURM_NTASKS", 1)), int(there.get("SLURM_NNODES", 1))
    by_hand = there.get("SLURM_JOB_NAME") in ("bash", "interactive")  # as Lightning tells it
    return Layout(tasks // nodes, nodes) if tasks > 1 and "SLURM_PROCID" in there and not by_hand else None


def first() -> bool:
    """Whether this is the process that speaks and writes."""
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK") if _started() else ("LOCAL_RANK",)
    return int(next((os.environ[name] for name in names if name in os.environ), 0)) == 0


def count() -> int:
    """Processes that are connected."""
    from torch import distributed

    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def total(x: torch.Tensor) -> torch.Tensor:
    """The sum over processes, same in all.

    Its gradient is that of a sum whose parts are all this process's, as the trainer takes the mean of all processes'
    gradients: together that is the gradient of the sum.
    """
    from torch import distributed

    world = count()
    if world == 1:
        return x
    whole = x.detach().clone()
    distributed.all_reduce(whole)
    mine = x * world
    return mine + (whole - mine).detach()


def gathered(what: Any) -> list[Any]:
    """Every process's ``what``, in order."""
    from torch import distributed

    world = count()
    if world == 1:
        return [what]
    found: list[Any] = [None] * world
    distributed.all_gather_object(found, what)
    return found

"""``Process``: the device of a process, its rank among those that torchrun started, and their collective operations."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore

from bsszoo.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Process:
    """One process of a training: ``rank`` of ``world``, on ``device``; ``launched`` where torchrun started it."""

    device: torch.device
    rank: int = 0
    world: int = 1
    launched: bool = False

    @property
    def grouped(self) -> bool:
        """Whether it has a process group, if only of itself: torchrun's one process goes the way of several."""
        return self.launched or self.world > 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of the processes' values, in each of them."""
        if self.grouped:
            dist.all_reduce(values)
        return values

    def barrier(self) -> None:
        """Wait for the others."""
        if self.grouped:
            dist.barrier()

    def gathered(self, value: Any) -> list[Any]:
        """Every process's value, in each of them, in the order of their ranks; anything that can be pickled."""
        if not self.grouped:
            return [value]
        out: list[Any] = [None] * self.world
        dist.all_gather_object(out, value)
        return out

    def broadcast(self, value: Any) -> Any:
        """What the first process has, in every process; anything that ``torch.save`` takes, tensors on the CPU.

        Sent as bytes, so that machines without a common disk can resume from the first one's checkpoint.
        """
        if not self.grouped:
            return value
        buffer = io.BytesIO()
        if self.first:
            torch.save(value, buffer)
        length = torch.tensor([buffer.tell()], device=self.device)
        dist.broadcast(length, 0)
        data = torch.empty(int(length.item()), dtype=torch.uint8, device=self.device)
        if self.first:
            data.copy_(torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8))
        dist.broadcast(data, 0)
        return torch.load(io.BytesIO(bytes(data.cpu().numpy())), map_location="cpu", weights_only=True)


def launched_by_torchrun() -> bool:
    """Whether torchrun (or a like launcher) started this process as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


#: How long a process waits for the others.
_TIMEOUT: Final = timedelta(minutes=15)


@contextmanager
def joined(device: str | None = None) -> Iterator[Process]:
    """This process; within, the processes that torchrun started are one group (NCCL on GPUs, gloo on CPUs).

    Where all are told to use the same GPU, as ``--device cuda:0``, they share it, by gloo too: NCCL refuses that.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; by default a GPU where there is one, one for each process.

    Raises:
        SettingsError: No such device.
    """
    local = int(os.environ.get("LOCAL_RANK", 0))
    chosen = device_of(device, local)
    if not launched_by_torchrun():
        yield Process(chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    # A rank that hangs is noticed after this time; evaluation has no collective step for longer than a batch.
    dist.init_process_group(backend_of(device, chosen), timeout=_TIMEOUT, **_store_of_start())
    try:
        yield Process(chosen, dist.get_rank(), dist.get_world_size(), launched=True)
    finally:
        dist.destroy_process_group()


def backend_of(name: str | None, chosen: torch.device) -> str:
    """The backend of a process group: NCCL for GPUs, gloo for CPUs and for processes that share a GPU.

    Args:
        name: The device that was asked for, in each process.
        chosen: The device that this process uses.
    """
    shared = (
        name is not None and torch.device(name).index is not None and int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > 1
    )
    return "nccl" if chosen.type == "cuda" and not shared else "gloo"


def _store_of_start() -> dict[str, Any]:
    """Arguments of ``init_process_group`` with a store that no earlier start has used.

    torchrun restarts processes with the same store, in which the addresses of the dead are still listed (PyTorch issue
    135712). Where it does not share its store (TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1) each start has a fresh one.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    shared = dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), world, is_master=False, timeout=_TIMEOUT
    )
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return {"store": PrefixStore(f"bsszoo/start_{start}", shared), "rank": rank, "world_size": world}


def device_of(name: str | None, local: int = 0) -> torch.device:
    """The device of a name: a GPU where there is one by default; a ``SettingsError`` where it cannot be used."""
    if name is None:
        return torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    try:
        chosen = torch.device(name)
        if chosen.type == "cuda" and chosen.index is None:
            chosen = torch.device("cuda", local)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        devices = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        devices += ["mps"] if torch.backends.mps.is_available() else []
        raise SettingsError(
            f"The device {name!r} cannot be used ({str(error).splitlines()[0]}); this machine has {', '.join(devices)}."
        ) from None
    return chosen

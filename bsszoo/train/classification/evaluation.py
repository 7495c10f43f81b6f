"""Accuracy of a network on a split: the same code at the end of each epoch and in ``bsszoo validate``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from bsszoo.errors import RunError
from bsszoo.train.devices import Process


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Shares of images whose label is the network's first, or among its first five, choices [%]; mean loss [nats].

    ``split`` is the name of the split in the data.
    """

    top1: float
    top5: float
    loss: float
    images: int
    split: str = ""


def autocast(process: Process, precision: str) -> Callable[[], AbstractContextManager[object]]:
    """Makes the context in which a network runs at a precision: ``float32``, ``bfloat16`` or ``float16``."""
    if precision == "float32":
        return nullcontext
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float16
    return lambda: torch.autocast(process.device.type, dtype=dtype)


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    process: Process,
    *,
    precision: str = "float32",
    channels_last: bool = False,
    on_batch: Callable[[int], None] | None = None,
    stopping: Callable[[], bool] | None = None,
) -> Accuracy | None:
    """The accuracy of a network over all processes' images, each counted once.

    Args:
        model: The network, on the process's device; it is left in evaluation mode.
        batches: This process's normalised images [m, c, s, s] and labels [m].
        process: This process among all.
        precision: ``float32``, ``bfloat16`` or ``float16``.
        channels_last: Whether the network is in channels-last memory format.
        on_batch: Called after each batch with the images done so far, in this process.
        stopping: Asked after each batch; where it is True, None is returned. For one process only.

    Raises:
        RunError: There was no image.
    """
    model.eval()
    context = autocast(process, precision)
    # Counts are whole numbers below 2^53; the loss is summed in double precision where the device has it.
    counts = torch.zeros(
        3, dtype=torch.float32 if process.device.type == "mps" else torch.float64, device=process.device
    )
    done = 0
    for images, labels in batches:
        if channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with context():
            outputs = model(images)
        outputs = outputs.float()
        loss = nn.functional.cross_entropy(outputs, labels, reduction="sum")
        hit = outputs.topk(min(5, outputs.shape[1]), dim=1).indices == labels[:, None]
        counts += torch.stack([hit[:, 0].sum(), hit.any(dim=1).sum(), loss]).to(counts)
        done += len(labels)
        if on_batch is not None:
            on_batch(done)
        if stopping is not None and stopping():
            return None
    # Counted here: copying a number to a GPU waits until it has done all that is queued.
    counts = torch.cat([counts, counts.new_tensor([done])])
    top1, top5, loss_sum, count = process.sum(counts).tolist()
    if not count:
        raise RunError("There was no image to evaluate.")
    return Accuracy(100 * top1 / count, 100 * top5 / count, loss_sum / count, int(count))

"""Randomness as a function of where in the training it is drawn: nothing has to be saved to resume exactly.

Each image's augmentation depends on the seed, the epoch and the image's index in it; dropout, stochastic depth,
erasing and mixup on the seed, the update and the micro-batch. So a training that was stopped anywhere resumes as an
unbroken one, and any number of processes that read the images draw the same.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def mixed(*parts: int) -> int:
    """A seed of 63 bits that depends on every part."""
    digest = hashlib.blake2b(",".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_generators(device: torch.device, *parts: int) -> None:
    """Seed Python's, numpy's and torch's global generators for one micro-batch."""
    seed = mixed(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - timm's Mixup draws from the global generator
    # Not torch.manual_seed, which seeds every back end and formats a stack trace for those not yet used.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)


@contextmanager
def drawing(*parts: int) -> Iterator[None]:
    """Seeded generators of the CPU for a while; those of the caller are as before afterwards."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()  # noqa: NPY002
    seed = mixed(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - timm's augmentations draw from the global generator
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.default_generator.set_state(states[2])

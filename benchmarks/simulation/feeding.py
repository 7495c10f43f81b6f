"""How many workers one study feeds: the queue of asks on the virtual clock, for asks that all take equally long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from simulation.clock import simulate, waiting_share
from simulation.searches import SPREAD

#: Mean seconds of an evaluation.
LENGTHS: Final = (10, 60, 600, 3600)
WORKERS: Final = (8, 64, 256, 1024)
#: Evaluations of each worker; the first asks of all at once are among them.
ROUNDS: Final = 20


def idle_share(workers: int, ask_seconds: float, evaluation_seconds: float, seed: int = 0) -> float:
    """The share of the workers' time that goes into asking and waiting for one's turn."""
    rng = np.random.default_rng(seed)

    def evaluate(_: int) -> tuple[float, float]:
        return 0.0, evaluation_seconds * float(np.exp(SPREAD * rng.normal() - SPREAD**2 / 2))

    made = simulate(lambda: (0, ask_seconds), evaluate, lambda *_: None, workers=workers, evaluations=ROUNDS * workers)
    return waiting_share(made)


def table(asks: Sequence[float]) -> Iterator[str]:
    """A row for each length of an ask and of an evaluation."""
    yield from (
        "| s an ask | s an evaluation | limit: workers | " + " | ".join(f"{w:,} workers" for w in WORKERS) + " |",
        "|---:|---:|---:|" + "---:|" * len(WORKERS),
    )
    for ask in asks:
        for length in LENGTHS:
            shares = " | ".join(f"{idle_share(w, ask, length):.1%}" for w in WORKERS)
            # Above it, asks alone take longer than the evaluations of all workers side by side.
            yield f"| {ask:g} | {length:,} | {1 + length / ask:,.0f} | {shares} |"

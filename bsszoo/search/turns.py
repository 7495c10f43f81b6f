"""Whose turn it is: workers that ask one study at the same time choose one after the other, and never the same code,
unless it is trained again.

Trial numbers are tickets, as in Lamport's bakery. A trial waits until every earlier one that is being asked for has
its code, so it chooses with all of them in view. The wait ends when nothing changes for a while (an earlier worker was
killed in its ask); codes differ because each trial first writes its code and then reads the others':
of two that chose the same in the same instant at least one sees the other, and chooses again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from optuna.trial import FrozenTrial, TrialState

from bsszoo.optuna_parts import write_attribute
from bsszoo.search.history import CHOSEN, REPLICATE, CodeTuple, code_of, dropped, replicate_of

if TYPE_CHECKING:
    from optuna.study import Study

#: Seconds without any change after which earlier asks count as dead.
PATIENCE: Final = 5.0


class Turns:
    """The queue of asks of one study, as seen by one process."""

    def __init__(self, names: Sequence[str], *, patience: float = PATIENCE) -> None:
        self.names = tuple(names)
        self.patience = patience
        self._given_up: set[int] = set()
        self._lock = threading.Lock()

    def __getstate__(self) -> tuple[tuple[str, ...], float]:
        return self.names, self.patience

    def __setstate__(self, state: tuple[tuple[str, ...], float]) -> None:
        self.__init__(state[0], patience=state[1])  # type: ignore[misc]

    def wait(self, study: Study, number: int) -> list[FrozenTrial]:
        """All trials of the study, once every earlier ask has its code or counts as dead."""
        pause, previous, since = 0.01, frozenset[int](), time.monotonic()
        while True:
            trials = study.get_trials(deepcopy=False)
            asking = frozenset(
                t.number
                for t in trials
                if t.number < number
                and t.state == TrialState.RUNNING
                and t.number not in self._given_up
                and code_of(t, self.names) is None
            )
            if not asking:
                return trials
            if asking != previous:
                previous, since = asking, time.monotonic()
            elif time.monotonic() - since > self.patience:
                with self._lock:
                    self._given_up |= asking
                return trials
            time.sleep(pause)
            pause = min(1.5 * pause, 0.2)

    def take(self, study: Study, trial: FrozenTrial, code: CodeTuple, replicate: int | None = None) -> bool:
        """Write the code that a trial chose; whether no other trial has it, those given up aside.

        Where codes are trained again, ``replicate`` is which training of the code it is; another trial may have the
        code as another one, and one that failed has given its number back.
        """
        if replicate is not None:
            write_attribute(study, trial, REPLICATE, replicate)
        write_attribute(study, trial, CHOSEN, list(code), system=True)
        others = study.get_trials(deepcopy=False)
        return not any(
            t.number != trial.number
            and dropped(t) is None
            and code_of(t, self.names) == code
            and (replicate is None or (replicate_of(t) == replicate and t.state != TrialState.FAIL))
            for t in others
        )

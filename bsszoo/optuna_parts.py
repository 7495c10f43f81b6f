"""The private parts of Optuna that bsszoo uses: all of them are here, hence ``optuna<6``.

Optuna's public ``tell`` and ``Trial`` serve the process that asked. Workers also mark and end the trials of others, and
read one trial without reading all, which only the study's storage can do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optuna.storages import JournalStorage

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.storages import RDBStorage
    from optuna.storages.journal import BaseJournalBackend
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial, TrialState

#: Parameters by name, as (internal value, distribution).
Params = Mapping[str, "tuple[float, BaseDistribution]"]


def write_attribute(study: Study, trial: FrozenTrial, name: str, value: Any, *, system: bool = False) -> None:
    """Write a user attribute of a trial that is not finished, or a system attribute.

    Raises:
        UpdateFinishedTrialError: It is finished.
    """
    storage = study._storage
    (storage.set_trial_system_attr if system else storage.set_trial_user_attr)(trial._trial_id, name, value)


def read_again(study: Study, trial: FrozenTrial | Trial) -> FrozenTrial:
    """The trial's present state in the storage."""
    return study._storage.get_trial(trial._trial_id)


def finish(study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None = None) -> None:
    """End a trial in a state, with its values.

    Raises:
        UpdateFinishedTrialError: It is finished.
    """
    study._storage.set_trial_state_values(trial._trial_id, state, values)


def write_report(study: Study, trial: FrozenTrial, value: float, step: int) -> None:
    """Write a trial's intermediate value at a step, replacing an earlier one.

    Raises:
        UpdateFinishedTrialError: It is finished.
    """
    study._storage.set_trial_intermediate_value(trial._trial_id, step, value)


def suggest(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    """What the study's sampler suggests for a parameter of any distribution."""
    return trial._suggest(name, distribution)


def write_params(study: Study, trial: FrozenTrial, params: Params) -> None:
    """Write parameters that a trial does not have: at once, where the storage has ``set_trial_params``.

    Not by ``Trial.suggest_int``, which reads the whole trial anew for each.

    Raises:
        UpdateFinishedTrialError: It is finished.
    """
    write = getattr(study._storage, "set_trial_params", None)
    if write is not None:
        write(trial._trial_id, params)
        return
    for name, (value, distribution) in params.items():
        study._storage.set_trial_param(trial._trial_id, name, value, distribution)


def write_params_at_once(database: RDBStorage, trial_id: int, params: Params) -> None:
    """Write parameters of a trial in one transaction, where Optuna makes one for each, a wait for the disk."""
    from optuna.storages._rdb.storage import _create_scoped_session

    with _create_scoped_session(database.scoped_session, ignore_integrity_error=True) as session:
        for name, (value, distribution) in params.items():
            database._set_trial_param_without_commit(session, trial_id, name, value, distribution, distribution)


class ReplayedJournal(JournalStorage):
    """Optuna's journal storage, with readable errors.

    Args:
        backend: Where its records are.
        explain: The error to raise instead of one that was raised while records were replayed; its other arguments are
            the number of the last record read, from 1, and the ``worker_id`` in the records of this thread.
    """

    def __init__(self, backend: BaseJournalBackend, explain: Callable[[Exception, int, str], Exception]) -> None:
        self._explain = explain
        super().__init__(backend)

    def _sync_with_backend(self) -> None:
        try:
            super()._sync_with_backend()
        except Exception as error:
            explained = self._explain(error, self._replay_result.log_number_read, self._replay_result.worker_id)
            if explained is error:
                raise
            raise explained from None

"""``AutoBSSSampler``: the search as an ordinary Optuna sampler. Glue only.

study -> history.read_history -> turns -> paper_mode or default_mode: a row of the candidates -> code
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from bsszoo.errors import RunError
from bsszoo.optuna_parts import finish, read_again, write_attribute
from bsszoo.search.default_mode import DefaultMode, Leader
from bsszoo.search.gp import one_thread
from bsszoo.search.history import REPLICATE, CodeTuple, History, code_of, dropped, read_history
from bsszoo.search.paper_mode import CLUSTERS, PaperMode
from bsszoo.search.turns import Turns
from bsszoo.spaces.candidate_set import CandidateSet

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study

Mode = Literal["default", "paper"]


class _Search(Protocol):
    """A mode: a function of the history and of the rows that may still be suggested."""

    def suggest(self, history: History, free: NDArray[np.bool_]) -> int: ...


class AutoBSSSampler(BaseSampler):
    """Bayesian optimisation of block stacking style codes, or of any other integer codes, in any Optuna study.

    The first codes are dispersed over the candidates: ``batch_size`` of them in the paper's mode, in the default one as
    many as are asked for before the eighth result. After them each suggestion is the candidate with the largest
    expected improvement under a Gaussian process, running trials accounted for. It never suggests a code outside
    ``candidates``, nor, without ``replicates``, one that the study already holds, failed ones included; workers that
    ask at the same time choose one after the other (see ``bsszoo.search.turns``).

    A suggestion is a function of the seed and of the trials in the study's storage alone: a study that was killed
    resumes as if it had not been, and any number of workers share one.

    Args:
        candidates: The codes to choose from. An objective asks for a code by ``candidates.suggest(trial)``, and
            ``Space.code_of(trial)`` is its network's, with the fixed parts of the space that they were drawn from.
        mode: ``"default"`` is the search of ``bsszoo.search.default_mode``, ``"paper"`` that of AutoBSS's appendix A.1
            (``bsszoo.search.paper_mode``).
        batch_size: Most codes of the dispersed first iteration. In the default mode it ends with the eighth result: as
            many as this are asked for only where that many are evaluated at a time.
        seed: Seed of every random choice; None draws one, and two runs differ. Workers that share a study take the
            same seed.
        clusters: Number of clusters of refined codes, for ``mode="paper"``.
        replicates: The share of the trials, at most, that train a code again instead of a new one (0 to 1): where a
            result has noise, the best of many results is a lucky one. The sampler decides trial by trial;
            ``bsszoo.search.replicate_of(trial)`` says which training of its code a trial is, for its random seed, and
            ``recommend`` what to take in the end. 0, the default, trains every code once; 0.25 is a good share.
        first: Codes of the candidates [k, d] that the first iteration begins with, such as what is known to be good and
            its neighbours; the others are dispersed. For ``mode="default"``.

    Raises:
        ValueError: A size is below 1, a share outside 0 to 1, a first code is no candidate, or there is no such mode.
        TypeError: ``candidates`` is no ``CandidateSet``.
        RunError: From ``study.ask``: every candidate is in the study already, the study has several objectives, or it
            asks for a parameter that is no entry of the candidates.

    Example:
        >>> import numpy as np, optuna
        >>> codes = np.array([[w, d] for w in range(8, 65, 8) for d in range(1, 9) if w * d <= 128])
        >>> candidates = CandidateSet(codes, names=("width", "depth"))
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study(direction="maximize", sampler=AutoBSSSampler(candidates, batch_size=4, seed=0))
        >>> for _ in range(12):
        ...     trial = study.ask(fixed_distributions=candidates.distributions)
        ...     _ = study.tell(trial, trial.params["width"] * np.sqrt(trial.params["depth"]))
        >>> candidates.index(study.best_params) is not None
        True
    """

    def __init__(
        self,
        candidates: CandidateSet,
        *,
        mode: Mode = "default",
        batch_size: int = 16,
        seed: int | None = None,
        clusters: int = CLUSTERS,
        replicates: float = 0.0,
        first: Sequence[Sequence[int]] = (),
    ) -> None:
        if not isinstance(candidates, CandidateSet):
            raise TypeError(
                f"candidates is a {type(candidates).__name__}; it takes a CandidateSet, such as "
                "CandidateSet(codes, names=...)."
            )
        if batch_size < 1 or clusters < 1:
            raise ValueError(f"batch_size and clusters are at least 1; got {batch_size} and {clusters}.")
        if seed is not None and seed < 0:
            raise ValueError(f"seed is at least 0; got {seed}.")
        if mode not in ("default", "paper"):
            raise ValueError(f"mode is 'default' or 'paper'; got {mode!r}.")
        if not 0 <= replicates <= 1 or (replicates and mode == "paper"):
            raise ValueError(f"replicates is a share from 0 to 1, of mode 'default' only; got {replicates}.")
        self.candidates = candidates
        self.mode = mode
        self.batch_size = batch_size
        self.replicates = float(replicates)
        self.seed = int(np.random.SeedSequence().entropy) % 2**63 if seed is None else seed  # type: ignore[arg-type]
        given = [candidates.row(code) for code in first]
        if None in given or (given and mode == "paper"):
            wrong = next((tuple(code) for code, row in zip(first, given, strict=True) if row is None), None)
            what = "mode 'paper' disperses all" if wrong is None else f"{wrong} is none"
            raise ValueError(f"first holds candidates that the default search begins with; {what}.")
        self._first = [row for row in given if row is not None]
        self._search: _Search = (
            PaperMode(candidates, batch_size=batch_size, seed=self.seed, clusters=clusters)
            if mode == "paper"
            else self._default
        )
        self._turns = Turns(candidates.names)

    @cached_property
    def _default(self) -> DefaultMode:
        """The default search, which recommends whatever the mode is."""
        return DefaultMode(
            self.candidates, batch_size=self.batch_size, seed=self.seed, replicates=self.replicates, first=self._first
        )

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """One integer distribution for each entry of a code."""
        return dict(self.candidates.distributions)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Choose the trial's code as it begins, so that other workers see it before its parameters are suggested."""
        enqueued = code_of(trial, self.candidates.names)
        if enqueued is not None:
            if self.replicates:
                write_attribute(
                    study, trial, REPLICATE, self._replicate(study.get_trials(deepcopy=False), trial, enqueued)
                )
        elif trial.state == TrialState.RUNNING:
            try:
                self._choose(study, trial)
            except RunError:
                # The trial exists already; no worker would ever finish it.
                finish(study, trial, TrialState.FAIL)
                raise

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A whole code, so that no entry is ever sampled alone."""
        chosen = read_again(study, trial)
        code = code_of(chosen, self.candidates.names) or self._choose(study, chosen)
        return dict(zip(self.candidates.names, code, strict=True))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Always an error: one entry sampled alone would make a code that may break the budget."""
        names = ", ".join(self.candidates.names)
        raise RunError(
            f"The study asks for {param_name!r} as {param_distribution}, which AutoBSSSampler does not "
            f"suggest. Its parameters are {names}; candidates.suggest(trial) asks for them."
        )

    def recommend(self, study: Study, number: int = 5) -> list[Leader]:
        """The codes to take, best first, by what all trainings of all codes say.

        The first is recommended: that of the largest posterior mean under the model of the default search, whatever the
        mode. Of codes that were trained once it stands between the best single result and the model's prediction.

        Args:
            study: A study that this sampler's candidates were searched in.
            number: Of codes at most.

        Raises:
            RunError: No trial has a finite result.

        Example:
            >>> import numpy as np, optuna
            >>> from bsszoo.search import replicate_of
            >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
            >>> candidates = CandidateSet(np.arange(40)[:, None], names=("width",))
            >>> sampler = AutoBSSSampler(candidates, batch_size=4, seed=0, replicates=0.25)
            >>> study = optuna.create_study(direction="maximize", sampler=sampler)
            >>> def objective(trial):
            ...     width = trial.suggest_int("width", 0, 39)
            ...     seed = replicate_of(trial)
            ...     return -abs(width - 20) + np.random.default_rng([width, seed]).normal()
            >>> study.optimize(objective, n_trials=24)
            >>> best = sampler.recommend(study)[0]
            >>> 18 <= best.params["width"] <= 22, 0 < best.probability <= 1
            (True, True)
        """
        if number < 1:
            raise ValueError(f"number is at least 1; got {number}.")
        maximise = study.direction == StudyDirection.MAXIMIZE
        history = read_history(study.get_trials(deepcopy=False), self.candidates, maximise=maximise)
        if not history.done.any():
            raise RunError("No trial of the study has a result yet; nothing can be recommended.")
        with one_thread():
            return self._default.leaders(history, number, 1.0 if maximise else -1.0)

    def _choose(self, study: Study, trial: FrozenTrial) -> CodeTuple:
        if len(study.directions) > 1:
            raise RunError(
                f"The study has {len(study.directions)} objectives; AutoBSSSampler searches one. Make the "
                "other figures limits of the candidates, or weigh them into one objective."
            )
        maximise = study.direction == StudyDirection.MAXIMIZE
        fixed = trial.system_attrs.get("fixed_params", {})
        trials = self._turns.wait(study, trial.number)
        while True:
            history = read_history(trials, self.candidates, maximise=maximise, without=trial.number)
            row = self._suggested_row(history, fixed)
            code: CodeTuple = tuple(int(v) for v in self.candidates.codes[row])
            if self._turns.take(study, trial, code, self._replicate(trials, trial, code)):
                return code
            trials = study.get_trials(deepcopy=False)

    def _replicate(self, trials: list[FrozenTrial], trial: FrozenTrial, code: CodeTuple) -> int | None:
        """Which training of its code a trial would be; None where codes are trained once."""
        if not self.replicates:
            return None
        # What failed has no result; another trial takes its number, and with it its seed.
        others = (t for t in trials if t.number != trial.number and dropped(t) is None and t.state != TrialState.FAIL)
        return sum(code_of(t, self.candidates.names) == code for t in others)

    def _suggested_row(self, history: History, fixed: dict[str, Any]) -> int:
        free = np.ones(len(self.candidates), dtype=np.bool_)
        free[history.rows[history.rows >= 0]] = False
        if not free.any() and not (self.replicates and history.done.sum() > 1 and not fixed):
            raise RunError(f"All {len(free)} candidates are in the study already; nothing is left to suggest.")
        for j, name in enumerate(self.candidates.names):
            if name in fixed:
                free &= self.candidates.codes[:, j] == fixed[name]
        if fixed and not free.any():
            raise RunError(f"No candidate left has the enqueued entries {fixed}.")
        again = history.due[free[history.due]]
        if len(again):
            return int(again[0])
        with one_thread():
            if fixed and self.replicates:
                return self._default.suggest(history, free, new=True)
            return self._search.suggest(history, free)

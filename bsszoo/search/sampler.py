"""``AutoBSSSampler``: the paper's search as an ordinary Optuna sampler. Glue only; the mathematics stands beside it.

    codes -> refining.refine -> clustering.representatives -> gp.posterior (1) -> acquisition: EI (2), EEI (3) -> code
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from bsszoo.errors import RunError
from bsszoo.search.acquisition import expected_expected_improvement
from bsszoo.search.candidates import CandidateSet
from bsszoo.search.clustering import farthest, representatives
from bsszoo.search.gp import Posterior, posterior, sigma_rule, standardise
from bsszoo.search.refining import refine, standardise_codes

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study

FloatArray = NDArray[np.float64]

#: Clusters of refined codes whose centres are judged at each step (step 4 of the search).
CLUSTERS = 256


@dataclass(frozen=True, eq=False)
class _Model:
    """What one set of finished results teaches: the refining map, the representatives and the process."""

    map: FloatArray  # [m, m]
    rows: NDArray[np.int64]  # candidates that stand for the clusters [q]
    given: Posterior


class AutoBSSSampler(BaseSampler):
    """Bayesian optimisation of block stacking style codes (AutoBSS, appendix A.1), in any Optuna study.

    The first ``batch_size`` codes are k-means centres of the standardised candidates. After them every suggestion
    refines the codes from the finished results, clusters the refined candidates, and takes the cluster centre with
    the largest expected improvement, in expectation over the results of codes still in training. It never suggests a
    code outside ``candidates``, nor one that the study already holds, failed ones included. Workers that ask in the
    same instant take the best, the second best and so on; only when trials begin and end just then may two agree.

    A suggestion is a function of the seed and of the trials in the study's storage alone: a study that was killed goes
    on as if it had not been, and any number of workers share one.

    Args:
        candidates: The codes to choose from. Studies take their parameters from ``candidates.distributions``.
        batch_size: Codes in the first iteration (the paper trains several networks at a time; we use 16).
        seed: Seed of every random choice; None draws one, and two runs differ.
        clusters: Number of clusters of refined codes.

    Raises:
        RunError: From ``study.ask``: every candidate is in the study already, or the study asks for a parameter that
            is no entry of the candidates.

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
        batch_size: int = 16,
        seed: int | None = None,
        clusters: int = CLUSTERS,
    ) -> None:
        if batch_size < 1 or clusters < 1:
            raise ValueError(f"batch_size and clusters are at least 1; given were {batch_size} and {clusters}.")
        self.candidates = candidates
        self.batch_size = batch_size
        self.seed = int(np.random.SeedSequence().entropy) % 2**63 if seed is None else seed  # type: ignore[arg-type]
        self.clusters = clusters
        codes = candidates.codes
        self._mean, self._std = codes.mean(axis=0), codes.std(axis=0)
        self._Z = standardise_codes(codes, self._mean, self._std)
        self._first: NDArray[np.int64] | None = None
        self._memo: tuple[object, _Model] | None = None

    # -- Optuna's side ---------------------------------------------------------------------------------------

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """One integer distribution for each entry of a code."""
        return dict(self.candidates.distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A whole code, so that no entry is ever sampled on its own."""
        others = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        fixed = trial.system_attrs.get("fixed_params", {})
        if self.candidates.is_whole(fixed):
            return dict(fixed)  # a whole code that the user enqueued, from the set or not
        # Workers that are being given a code at this moment: each takes the next best one.
        asking = [t for t in others if t.state == TrialState.RUNNING and not self.candidates.is_whole(t.params)]
        ahead = sum(t.number < trial.number for t in asking)
        row = self._suggest(others, maximise=study.direction == StudyDirection.MAXIMIZE, fixed=fixed, ahead=ahead)
        return {n: int(v) for n, v in zip(self.candidates.names, self.candidates.codes[row], strict=True)}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Always an error: one entry sampled alone would make a code that may break the budget."""
        known = ", ".join(self.candidates.names)
        raise RunError(f"The study asks for {param_name!r} as {param_distribution}, which AutoBSSSampler does not "
                       f"suggest. Its parameters are {known}; take their ranges from candidates.distributions.")

    # -- the search, step by step ----------------------------------------------------------------------------

    def _suggest(self, others: Sequence[FrozenTrial], *, maximise: bool, fixed: dict[str, Any], ahead: int) -> int:
        held = [t for t in others if self.candidates.is_whole(t.params)]
        held.sort(key=lambda t: t.number)
        done = [t for t in held if t.state == TrialState.COMPLETE and t.value is not None and np.isfinite(t.value)]
        pending = [t for t in held if t.state == TrialState.RUNNING]
        free = self._free_rows(held, fixed)

        if len(held) < self.batch_size:
            centres = [int(r) for r in self._first_rows() if free[r]]
            if centres:
                return centres[ahead % len(centres)]
        used = self._points(held)
        if len(done) < 2:
            # Nothing to model yet (the first iteration failed or still runs): the code farthest from all others.
            rows = np.flatnonzero(free)
            for _ in range(min(ahead, len(rows) - 1)):
                used = np.concatenate([used, self._Z[rows[farthest(self._Z[rows], used)]][None]])
            return int(rows[farthest(self._Z[rows], used)])
        model = self._model(done, held[: self.batch_size], maximise=maximise)
        rows = model.rows[free[model.rows]]
        if not len(rows):
            rows = np.flatnonzero(free)
        rng = self._rng("eei", len(done), len(held))
        gain = expected_expected_improvement(
            model.given, self._points(pending) @ model.map.T, self._Z[rows] @ model.map.T, rng
        )
        return int(rows[np.argsort(-gain, kind="stable")[min(ahead, len(rows) - 1)]])

    def _free_rows(self, held: Sequence[FrozenTrial], fixed: dict[str, Any]) -> NDArray[np.bool_]:
        """Which candidates may still be suggested: not in the study, and with the entries that the user enqueued."""
        free = np.ones(len(self.candidates), dtype=bool)
        for trial in held:
            row = self.candidates.index(trial.params)
            if row is not None:
                free[row] = False
        if not free.any():
            raise RunError(f"All {len(free)} candidates are in the study already; nothing is left to suggest.")
        for j, name in enumerate(self.candidates.names):
            if name in fixed:
                free &= self.candidates.codes[:, j] == fixed[name]
        if not free.any():
            raise RunError(f"No candidate left has the enqueued entries {fixed}.")
        return free

    def _first_rows(self) -> NDArray[np.int64]:
        """Step 2: dispersed cluster centres of the standardised codes."""
        if self._first is None:
            self._first = representatives(self._Z, self.batch_size, self._rng("first"))
        return self._first

    def _model(
        self, done: Sequence[FrozenTrial], first: Sequence[FrozenTrial], *, maximise: bool
    ) -> _Model:
        """Steps 3 to 5, remembered for as long as no further result comes in."""
        y = np.array([float(t.value) for t in done if t.value is not None]) * (1 if maximise else -1)
        key = (tuple(t.number for t in done), y.tobytes())
        if self._memo is None or self._memo[0] != key:
            Z, Y = self._points(done), standardise(y)
            refining = refine(Z, Y)
            refined = self._Z @ refining.T
            rows = representatives(refined, self.clusters, self._rng("clusters", len(done)))
            X = Z @ refining.T
            head = sum(t.number <= first[-1].number for t in done)
            self._memo = key, _Model(refining, rows, posterior(X, Y, sigma_rule(X, Y, head)))
        return self._memo[1]

    def _points(self, trials: Sequence[FrozenTrial]) -> FloatArray:
        """Standardised codes of trials [n, m]; codes outside the candidate set teach as well as those inside."""
        names = self.candidates.names
        codes = np.array([[t.params[n] for n in names] for t in trials], dtype=np.int64).reshape(-1, len(names))
        return standardise_codes(codes, self._mean, self._std)

    def _rng(self, purpose: str, *counts: int) -> np.random.Generator:
        """A generator that depends on the seed, the purpose and the state of the study, never on who asks."""
        return np.random.default_rng([self.seed, *purpose.encode(), *counts])

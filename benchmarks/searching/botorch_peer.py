"""BoTorch's qLogNoisyExpectedImprovement over the candidates. BoTorch is no dependency of bsszoo."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from searching.plain import RandomSearch
from searching.task import Task


class NoisyImprovement(RandomSearch):
    """BoTorch's default Gaussian process, fitted once a batch; each code of a batch knows those before it as pending.

    The first batch is random.
    """

    CHUNK = 512

    def __init__(self, task: Task, seed: int) -> None:
        super().__init__(task, seed)
        self.seed = seed
        low, high = task.codes.min(axis=0), task.codes.max(axis=0)
        self.points = torch.from_numpy((task.codes - low) / np.maximum(high - low, 1)).double()
        self.rows: list[int] = []
        self.values: list[float] = []
        self.pending: list[int] = []
        self.acquisition: Any = None

    def ask(self) -> int:
        """See ``Sampler``."""
        row = self._take(self.free) if not self.rows else self._best()
        self.pending.append(row)
        return row

    def tell(self, rows: Sequence[int], values: Sequence[float]) -> None:
        """See ``Sampler``."""
        self.rows += rows
        self.values += values
        self.pending, self.acquisition = [], None

    def _best(self) -> int:
        if self.acquisition is None:
            self.acquisition = self._fitted()
        if self.pending:
            self.acquisition.set_X_pending(self.points[self.pending])
        rows = np.flatnonzero(self.free)
        with torch.no_grad():
            gain = torch.cat(
                [self.acquisition(self.points[rows[i : i + self.CHUNK], None]) for i in range(0, len(rows), self.CHUNK)]
            )
        row = int(rows[int(gain.argmax())])
        self.free[row] = False
        return row

    def _fitted(self) -> Any:
        # Imported by name, so that this file loads, and is type-checked, where BoTorch is missing.
        models = importlib.import_module("botorch.models")
        fit = importlib.import_module("botorch.fit")
        acquisition = importlib.import_module("botorch.acquisition.logei")
        samplers = importlib.import_module("botorch.sampling.normal")
        likelihood = importlib.import_module("gpytorch.mlls").ExactMarginalLogLikelihood
        warnings.filterwarnings("ignore", module="(botorch|gpytorch|linear_operator)")
        torch.manual_seed(self.seed)
        y = torch.tensor(self.values, dtype=torch.double)[:, None]
        x = self.points[self.rows]
        model = models.SingleTaskGP(x, (y - y.mean()) / y.std().clamp_min(1e-9), outcome_transform=None)
        fit.fit_gpytorch_mll(likelihood(model.likelihood, model))
        return acquisition.qLogNoisyExpectedImprovement(
            model, x, sampler=samplers.SobolQMCNormalSampler(torch.Size([128]), seed=self.seed), prune_baseline=True
        )

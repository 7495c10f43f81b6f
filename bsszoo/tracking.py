"""Runs of Weights & Biases, MLflow and Trackio: what a compression or a training reports, through one callback each.

    with MlflowCallback() as callback:
        bsszoo.compress("my.pth", flops="50%", data="pictures", callbacks=[callback])

Every trial is a step of the compression's run, every epoch (of a detector every validation) one of a training's;
settings and recipes are its configuration. ``close`` adds the closing figures. Which run a folder has is kept in its
``tracking.json``, so that a search or a training that goes on goes on in the same run.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from bsszoo.errors import SettingsError, close_matches
from bsszoo.files import write_whole

if TYPE_CHECKING:
    from types import ModuleType

    from bsszoo.compression.events import Event
    from bsszoo.train.callbacks import Start, TrainingState
    from bsszoo.train.checkpoint import Row

#: The file of a folder that holds its runs' identifiers, by service.
RUNS: Final = "tracking.json"
# What the folders of compressions and trainings hold in the end.
_RESULT, _SETTINGS, _SUMMARY = "result.json", "settings.json", "summary.json"

Figures = Mapping[str, float | int]


class TrackingCallback:
    """A callback of ``bsszoo.compress`` and of ``bsszoo.train.loop.train`` that writes one run of a tracking service.

    Args:
        project: The service's project or experiment.
        options: Further arguments of the service's own ``init``.

    Raises:
        SettingsError: The service's package is not installed.
    """

    #: The service's name on the command line, and the extra of bsszoo with its package.
    name: ClassVar[str]
    #: The module that is imported.
    module: ClassVar[str]

    def __init__(self, project: str = "bsszoo", **options: Any) -> None:
        self._project, self._options = project, options
        self._service = _imported(self.module, self.name)
        self._folder: Path | None = None

    def __enter__(self) -> TrackingCallback:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- of a compression -------------------------------------------------------------------------------------

    def __call__(self, event: Event) -> None:
        """Log the trial that an event tells of."""
        if event.folder is None or event.phase in ("latency", "plan"):
            return
        if self._folder is None:
            self._open(event.folder, _read(event.folder / _SETTINGS))
        trial = event.trial
        if trial is None:
            return
        figures: dict[str, float | int] = {
            "macs": trial.cost.macs,
            "params": trial.cost.params,
            "seconds": trial.seconds,
            "failed": int(trial.state == "failed"),
        }
        if trial.score is not None:
            figures["score"] = trial.score
        if event.best is not None and event.best.score is not None:
            figures["best_score"] = event.best.score
        self._log(figures, trial.number)

    # -- of a training ----------------------------------------------------------------------------------------

    def started(self, start: Start) -> None:
        """Open the run, with the recipe as its configuration."""
        self._open(start.folder, start.recipe.model_dump(mode="json"))

    def updated(self, state: TrainingState) -> None:
        """Do nothing: rounds are what is logged."""

    def validating(self, images: int) -> None:
        """Do nothing."""

    def validated(self, row: Row) -> None:
        """Log the figures of a round, at its number of updates."""
        figures = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
        self._log({name: value for name, value in figures.items() if value is not None}, figures["update"])

    def note(self, text: str) -> None:
        """Do nothing."""

    # -- the run ----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Add the closing figures and end the run; without one nothing."""
        if self._folder is None:
            return
        folder, self._folder = self._folder, None
        self._end(_closing(folder))

    def _open(self, folder: Path, configuration: Mapping[str, Any]) -> None:
        runs = _read(folder / RUNS)
        earlier = runs.get(self.name)
        identifier = self._begin(folder.resolve().name, configuration, earlier if isinstance(earlier, str) else None)
        self._folder = folder
        write_whole(folder / RUNS, json.dumps({**runs, self.name: identifier}, indent=2) + "\n")

    def _begin(self, name: str, configuration: Mapping[str, Any], earlier: str | None) -> str:
        """Open a run, or go on with an earlier one, and return its identifier."""
        raise NotImplementedError

    def _log(self, figures: Figures, step: int) -> None:
        """Log figures at a step."""
        raise NotImplementedError

    def _end(self, closing: Mapping[str, Any]) -> None:
        """Add figures and texts of the end, and close the run."""
        raise NotImplementedError


class WandbCallback(TrackingCallback):
    """A run of Weights & Biases; ``options`` are those of ``wandb.init``, such as ``entity`` and ``mode="offline"``."""

    name = "wandb"
    module = "wandb"

    def _begin(self, name: str, configuration: Mapping[str, Any], earlier: str | None) -> str:
        self._run = self._service.init(
            project=self._project, name=name, config=dict(configuration), id=earlier, resume="allow", **self._options
        )
        return str(self._run.id)

    def _log(self, figures: Figures, step: int) -> None:
        self._run.log(dict(figures), step=step)

    def _end(self, closing: Mapping[str, Any]) -> None:
        self._run.summary.update(dict(closing))
        self._run.finish()


class MlflowCallback(TrackingCallback):
    """A run of MLflow in the experiment ``project``, on the server ``tracking_uri``, else on MLFLOW_TRACKING_URI's."""

    name = "mlflow"
    module = "mlflow"

    def _begin(self, name: str, configuration: Mapping[str, Any], earlier: str | None) -> str:
        self._client = self._service.MlflowClient(**self._options)
        if earlier is not None:
            try:
                self._client.update_run(earlier, status="RUNNING")
            except self._service.MlflowException:  # of another server
                earlier = None
        if earlier is None:
            found = self._client.get_experiment_by_name(self._project)
            experiment = self._client.create_experiment(self._project) if found is None else found.experiment_id
            earlier = str(self._client.create_run(experiment, run_name=name).info.run_id)
            for key, value in _flat(configuration).items():
                self._client.log_param(earlier, key, str(value)[:500])
        self._run = earlier
        return earlier

    def _log(self, figures: Figures, step: int) -> None:
        for key, value in figures.items():
            self._client.log_metric(self._run, key, float(value), step=step)

    def _end(self, closing: Mapping[str, Any]) -> None:
        for key, value in closing.items():
            if isinstance(value, (int, float)):
                self._client.log_metric(self._run, key, float(value))
            else:
                self._client.set_tag(self._run, key, value)
        self._client.set_terminated(self._run)


class TrackioCallback(TrackingCallback):
    """A run of Trackio; ``options`` are those of ``trackio.init``, such as ``space_id``."""

    name = "trackio"
    module = "trackio"

    def _begin(self, name: str, configuration: Mapping[str, Any], earlier: str | None) -> str:
        # Trackio knows a run by its name.
        name = earlier or name
        self._run = self._service.init(
            project=self._project, name=name, config=dict(configuration), resume="allow", **self._options
        )
        return name

    def _log(self, figures: Figures, step: int) -> None:
        self._service.log(dict(figures), step=step)

    def _end(self, closing: Mapping[str, Any]) -> None:
        self._service.log({key: value for key, value in closing.items() if isinstance(value, (int, float))})
        self._service.finish()


#: The callbacks by the names of their services.
SERVICES: Final[dict[str, type[TrackingCallback]]] = {
    kind.name: kind for kind in (WandbCallback, MlflowCallback, TrackioCallback)
}


def tracking(service: str) -> TrackingCallback:
    """The callback of a service, ``wandb``, ``mlflow`` or ``trackio``, configured by its own environment variables.

    Raises:
        SettingsError: There is no such service here, or its package is not installed.
    """
    if service not in SERVICES:
        raise SettingsError(f"--track is {service!r}.{close_matches(service, SERVICES)}")
    return SERVICES[service]()


def _imported(module: str, extra: str) -> ModuleType:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError:
        raise SettingsError(
            f'Tracking with {extra} needs a package that is not installed: pip install "bsszoo[{extra}]"'
        ) from None


def _read(file: Path) -> dict[str, Any]:
    """The object in a JSON file; empty without one."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _closing(folder: Path) -> dict[str, Any]:
    """What a folder says in the end: the recommended network, or a training's summary, as numbers and texts."""
    if found := _read(folder / _RESULT):
        closing = dict(_flat({role: found.get(role) or {} for role in ("recommended", "uniform", "original")}))
        closing["recommendation"] = found.get("recommendation")
    else:
        # Beside an epoch's figures of the same names.
        closing = {f"final.{key}": value for key, value in _read(folder / _SUMMARY).items()}
    return {key: value for key, value in closing.items() if isinstance(value, (int, float, str))}


def _flat(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested mappings as one, with keys such as ``optim.lr``."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return flat

"""A study that ``compress`` made, finished or not, opened again for its report."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote

from bsszoo.codes.code import Code
from bsszoo.codes.detector import DetectorHead
from bsszoo.compression.budget import latency_limit
from bsszoo.compression.folder import (
    CONTROLS,
    LATENCIES,
    REPORT,
    RESULT,
    SETTINGS,
    default_storage,
    in_use,
    notes_in,
    read_json,
    read_result,
    result_aside,
    scores_in,
    understood,
)
from bsszoo.compression.plan import Plan, make_plan
from bsszoo.compression.result import assemble, candidates_fingerprint, controls_of, seconds_of, with_earlier
from bsszoo.errors import SettingsError, close_matches
from bsszoo.evaluators.base import Evaluator, EvaluatorInfo, Score, Trial
from bsszoo.evaluators.registry import BUILT_IN, built_in
from bsszoo.files import plain_name
from bsszoo.latency.runtimes import DEFAULT
from bsszoo.report.page import render_page, write_page
from bsszoo.search.insight import insight_of_rows
from bsszoo.spaces.limits import Caps
from bsszoo.spaces.space import Space
from bsszoo.study.loop import SearchPlan, trial_rows
from bsszoo.study.result import ResolvedBudget
from bsszoo.study.storages import check_readable, masked, open_storage
from bsszoo.texts import one_line

if TYPE_CHECKING:
    from optuna.study import Study

#: Settings that a run's plan is made from.
_NEEDED = ("network", "code", "macs", "min_macs", "params", "evaluator", "batch", "seed", "scale", "caps", "candidates")
_FORMS = "a run's folder, a file (search.db, search.log) or an Optuna URL (sqlite:///search.db, postgresql://..)"
_STATES: Final = {
    "COMPLETE": "complete",
    "FAIL": "failed",
    "PRUNED": "pruned",
    "RUNNING": "running",
    "WAITING": "waiting",
}


@dataclass(frozen=True, slots=True)
class Reported:
    """The page that was written, the study's name, and its number of trials by state, as text."""

    path: Path
    study: str
    trials: str


def report_study(storage: str, *, study: str | None = None, out: str | Path | None = None) -> Reported:
    """Write the page of a study, whole, and leave the study as it is.

    It is the page that ``compress`` writes, while the search runs too.

    Args:
        storage: A run's folder, the file of an SQLite or journal storage, or an Optuna storage URL.
        study: Its name; needed when the storage holds several.
        out: The file to write; by default ``report.html`` in a run's folder, else ``report_NAME.html`` here.

    Nothing that the folder or the study names is imported or called: they may come from somebody else.

    Raises:
        SettingsError: There is no such storage or study, it is not one of ``compress``, there is nothing to report,
            or something is damaged; the text names it.
        RunError: The page cannot be written.
    """
    url, folder = locate(storage)
    opened = _open(url, study)
    target = Path(out) if out is not None else _default_out(folder, opened.study_name)
    settings, states = opened.user_attrs.get("settings"), _states(opened, folder)
    if not isinstance(settings, dict) or any(key not in settings for key in _NEEDED) or len(opened.directions) > 1:
        raise SettingsError(
            f"The study {opened.study_name!r} in {masked(url)} is not one of `bsszoo compress`, and this report shows "
            f"no other. Look at it with `optuna-dashboard {masked(url)}` (pip install optuna-dashboard), or with "
            "optuna.visualization."
        )
    with understood(f"The study {opened.study_name!r} in {masked(url)}", "Nothing was changed."):
        page = _compressed(opened, settings, folder, states)
    write_page(page, target)
    return Reported(target, opened.study_name, counted(states))


def _states(study: Study, folder: Path | None) -> list[str]:
    """Each trial's state in a word; a running trial of a folder that no process searches in is ``cut off``."""
    states = [_STATES[t.state.name] for t in study.get_trials(deepcopy=False)]
    if folder is None or "running" not in states or in_use(folder):
        return states
    return ["cut off" if state == "running" else state for state in states]


def counted(states: Iterable[str]) -> str:
    """The number of each word, most frequent first: ``12 complete, 2 failed``.

    Example:
        >>> counted(["failed", "complete", "complete"])
        '2 complete, 1 failed'
    """
    ranked = sorted(Counter(states).items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{n:,} {state}" for state, n in ranked) or "no trials"


def locate(storage: str) -> tuple[str, Path | None]:
    """The storage URL of a text, and the run's folder where it is one.

    Raises:
        SettingsError: There is no such folder or file, or it holds no study.
    """
    if "://" in storage:
        if storage.startswith("sqlite:///"):
            from sqlalchemy.engine import make_url

            _check_sqlite(Path(make_url(storage).database or ""))
        if storage.startswith("journal:///"):
            _check_journal(Path(unquote(storage.removeprefix("journal://"))))
        return storage, None
    path = Path(storage)
    if path.is_dir():
        return _in_folder(path)
    if not path.exists():
        raise SettingsError(f"There is no {masked(storage)!r}: give {_FORMS}.")
    if _start(path) != b"SQLite":
        _check_journal(path)
        return f"journal://{quote(path.resolve().as_posix())}", None
    _check_sqlite(path)
    return f"sqlite:///{path.resolve()}", path.parent if (path.parent / SETTINGS).exists() else None


def _in_folder(path: Path) -> tuple[str, Path]:
    settings = read_json(path / SETTINGS)
    elsewhere = (settings or {}).get("storage")
    if elsewhere:
        elsewhere = one_line(elsewhere)
        secret = ", with its password," if "***" in elsewhere else ""
        raise SettingsError(
            f"The study of the run in {path} is in {elsewhere}: give that URL{secret} and --out {path / REPORT}."
        )
    url = default_storage(path)
    file = Path(url.removeprefix("sqlite:///"))
    if not file.exists():
        raise SettingsError(f"{path} holds no run of bsszoo: there is no {file.name} in it. Give {_FORMS}.")
    _check_sqlite(file)
    return url, path


def _check_sqlite(file: Path) -> None:
    """Check a file before it is opened as a storage, which would make a missing file and its tables."""
    if not file.is_file():
        raise SettingsError(f"There is no file {str(file)!r}: give {_FORMS}.")
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error as error:
        raise SettingsError(
            f"{str(file)!r} cannot be read as an SQLite file: {error}. Nothing was changed; restore a copy of it."
        ) from None
    if "studies" not in tables:
        raise SettingsError(f"{str(file)!r} is no storage of Optuna: it has no table of studies. Give {_FORMS}.")


def _check_journal(file: Path) -> None:
    """Check a journal, one JSON object a line: a missing file would be made, and others would seem to be empty ones."""
    if not file.is_file():
        raise SettingsError(f"There is no file {str(file)!r}: give {_FORMS}.")
    if not _start(file).startswith(b"{"):
        raise SettingsError(f"{str(file)!r} is no storage of Optuna, neither SQLite nor a journal. Give {_FORMS}.")


def _start(file: Path) -> bytes:
    try:
        with file.open("rb") as content:
            return content.read(6)
    except OSError as error:
        raise SettingsError(f"{str(file)!r} cannot be read: {error.strerror or error}.") from None


def _open(url: str, name: str | None) -> Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(url, repair=False)
    with understood(f"The storage {masked(url)}", "Nothing was changed."):
        names = optuna.get_all_study_names(storage)
    if not names:
        raise SettingsError(
            f"The storage {masked(url)} holds no study. Run a search with it first, such as: bsszoo "
            "compress mobilenetv2 --flops 130M --storage URL."
        )
    if name is None and len(names) > 1:
        most = ", ".join(sorted(names)[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
        raise SettingsError(f"The storage {masked(url)} holds {len(names)} studies; choose one with --study: {most}.")
    if name is not None and name not in names:
        raise SettingsError(f"There is no study {name!r} in {masked(url)}.{close_matches(name, names)}")
    with understood(f"The study in {masked(url)}", "Nothing was changed."):
        study = optuna.load_study(study_name=name or names[0], storage=storage)
    check_readable(study, url)
    return study


def _default_out(folder: Path | None, name: str) -> Path:
    if folder is not None:
        return folder / REPORT
    return Path(f"report_{plain_name(name[:80])}.html")


# -- its result and page --------------------------------------------------------------------------------------


class _Recorded(Evaluator):
    """An evaluator's record: it is not loaded again, as only its scores are reported."""

    def __init__(self, info: EvaluatorInfo) -> None:
        self._info = info

    @property
    def info(self) -> EvaluatorInfo:
        """As the run recorded it."""
        return self._info

    def evaluate(self, code: Code, trial: Trial) -> Score:
        """Never called, as it is not free."""
        raise AssertionError


def _compressed(study: Study, settings: Mapping[str, Any], folder: Path | None, states: Sequence[str]) -> str:
    earlier = read_result(folder) if folder is not None else None
    with understood(f"The settings of the study {study.study_name!r}", "Nothing was changed."):
        plan, gaps = _plan(settings, folder)
    evaluator = _evaluator(plan, settings, earlier)
    rows = trial_rows(study, SearchPlan(plan.space, plan.candidates, evaluator, 1, settings["batch"]))
    if all(row.score is None for row in rows):
        raise SettingsError(
            f"The study {study.study_name!r} has no complete trial ({counted(states)}): there is nothing to report "
            "yet. Run its search, or wait for its first result, and try again."
        )
    scores = scores_in(read_json(folder / CONTROLS) if folder is not None else None) or scores_in(
        study.user_attrs.get("controls")
    )
    notes = [*gaps, *_notes(plan, settings)]
    missing = [
        role
        for role, code in controls_of(plan).items()
        if str(code) not in scores
        and not evaluator.free
        and evaluator.compares(plan.space.cost(code), plan.candidates, plan.budget.macs)
    ]
    if missing:
        notes.append(f"Not judged for this page, as no score of it was stored: {', '.join(missing)}.")
    result = assemble(
        replace(plan, notes=(*plan.notes, *notes)),
        evaluator,
        rows,
        title=str(settings["network"]),
        seed=settings["seed"],
        wanted=1,
        scores=scores,
        notes={} if folder is None else notes_in(folder),
        seconds=_span(study) if earlier is None else seconds_of(earlier),
        folder=folder,
        runtime=one_line(str(settings.get("runtime", DEFAULT)), 40),
    )
    if folder is not None:
        with understood(folder / RESULT, result_aside(folder)):
            result = with_earlier(result, earlier, plan)
    open_ones = [s for s in states if s in ("running", "waiting", "cut off")]
    stopped = (
        "was stopped, and the same command resumes it"
        if "cut off" in open_ones
        else "was still running"
        if folder is not None and "running" in open_ones
        else "was still running, or was stopped"
    )
    note = (
        f"{len(rows)} trials were finished and {counted(open_ones)} when this page was written: the search {stopped}."
        if open_ones
        else ""
    )
    return render_page(result, insight_of_rows(plan.candidates, rows), note=note)


def _plan(settings: Mapping[str, Any], folder: Path | None) -> tuple[Plan, list[str]]:
    """The plan of a run's settings, and notes on what of it cannot be computed."""
    caps = dict(settings["caps"])
    if caps.get("params") is not None:
        caps["params"] = tuple(caps["params"])
        for value in caps["params"]:
            _count("caps", value, float)
    for name in ("depth", "stage_depth"):
        if caps.get(name) is not None:
            _count("caps", caps[name], float)
    for name in ("macs", "min_macs", "batch", "seed"):
        _count(name, settings[name])
    for name in ("params", "activations", "min_params"):
        if settings.get(name) is not None:
            _count(name, settings[name])
    if settings.get("min_latency_ms") is not None:
        _count("min_latency_ms", settings["min_latency_ms"], float)
    _count("scale", settings["scale"], float)
    most = settings.get("latency_ms")
    limit, gaps = None, []
    if most is not None or "latency_model" in settings or "latency_table" in settings:
        if most is not None:
            _count("latency_ms", most, float)
        # No function is imported and no file elsewhere is read: the settings may come from somebody else.
        table = None if folder is None else folder / LATENCIES
        if table is not None and table.is_file():
            limit = latency_limit(most, table, None)
        else:
            source = one_line(settings.get("latency_model") or settings.get("latency_table") or "an unnamed model", 80)
            gaps.append(
                f"The latencies that limited the run came from {source}, which a report does not load, and "
                "there is no table of them in the run's folder. The page leaves them out."
            )
    budget = ResolvedBudget(
        macs=settings["macs"],
        min_macs=settings["min_macs"],
        params=settings["params"],
        activations=settings.get("activations"),
        latency_ms=most,
        min_params=settings.get("min_params"),
        min_latency_ms=settings.get("min_latency_ms"),
    )
    computed = budget if limit is not None else replace(budget, latency_ms=None, min_latency_ms=None)
    # Without one the grid is the paper's, as in every run of an earlier version.
    divisor = settings.get("divisor")
    if divisor is not None:
        _count("divisor", divisor)
    code, subnetworks = Code.parse(settings["code"]), settings.get("subnetworks")
    space = None
    if subnetworks is not None:
        for name in ("divisor", "num_classes", "in_chans"):
            _count(name, subnetworks[name])
        sizes = {name: subnetworks[name] for name in ("divisor", "num_classes", "in_chans")}
        space = Space.subnetworks(code, grow=subnetworks.get("grow", 1.0), **sizes)
    plan = make_plan(
        code,
        computed,
        caps=Caps(**caps),
        seed=settings["seed"],
        scale=settings["scale"],
        latency=None if limit is None else limit.model,
        head=DetectorHead(**settings["head"]) if settings.get("head") else None,
        space=space,
        divisor=divisor,
    )
    return replace(plan, budget=replace(plan.budget, latency_ms=budget.latency_ms)), gaps


def _count(name: str, value: object, kind: type = int) -> None:
    """A ``ValueError`` unless a setting is a number in the range of a search."""
    numbers = (int, float) if kind is float else (int,)
    if isinstance(value, bool) or not isinstance(value, numbers) or not 0 <= value < 1e18:
        raise ValueError(f"its {name} is {one_line(repr(value), 60)}, which is out of range")


def _notes(plan: Plan, settings: Mapping[str, Any]) -> list[str]:
    if candidates_fingerprint(plan) == settings["candidates"]:
        return []
    return [
        "The candidates drawn again for this page are not those of the run: it had a limit on latency, or another "
        "version of bsszoo or numpy drew them. Shares and curves average over the new ones."
    ]


def _evaluator(plan: Plan, settings: Mapping[str, Any], earlier: Mapping[str, Any] | None) -> Evaluator:
    """A free evaluator is made again; of any other one there is only the record."""
    name = str(settings["evaluator"])
    if name in BUILT_IN and built_in(name).free:
        free: Evaluator = built_in(name)().over(plan.space, plan.candidates)
        return free
    entry = (earlier or {}).get("evaluator")
    recorded = entry if isinstance(entry, dict) else {}
    caution = recorded.get("caution")
    return _Recorded(
        EvaluatorInfo(
            name,
            str(recorded.get("measures") or f"what {name} returned"),
            caution if isinstance(caution, str) else None,
        )
    )


def _span(study: Study) -> float:
    """Seconds from the first trial's start to the last one's end."""
    trials = study.get_trials(deepcopy=False)
    starts = [t.datetime_start for t in trials if t.datetime_start is not None]
    ends = [t.datetime_complete for t in trials if t.datetime_complete is not None]
    return (max(ends) - min(starts)).total_seconds() if starts and ends else 0.0

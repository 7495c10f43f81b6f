"""``compress``: from a network and a budget to several good codes, on disk and as a value."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from bsszoo.codes.code import Code
from bsszoo.codes.detector import Detector, DetectorHead, network_cost
from bsszoo.compression.budget import check_not_larger, latency_limit, parse_amount, plausible
from bsszoo.compression.closing import (
    doubts,
    found_rows,
    judge_controls,
    training_facts,
    with_earlier,
    with_latencies,
    with_predictions,
)
from bsszoo.compression.confirm import TRAININGS, Tester
from bsszoo.compression.confirm import confirm as confirm_found
from bsszoo.compression.diverse import diverse
from bsszoo.compression.finish import Finish
from bsszoo.compression.finish import finish as finish_found
from bsszoo.compression.folder import (
    LATENCIES,
    REPORT,
    RESULT,
    SETTINGS,
    check_settings,
    check_trials,
    first_free_folder,
    read_result,
    result_aside,
    run_folder,
    understood,
    write_json,
    write_result,
)
from bsszoo.compression.plan import STRUCTURAL_CAPS, Caps, Plan, make_plan
from bsszoo.compression.settings import folder_name, settings_of, versions_of
from bsszoo.compression.stopping import ends_in_order
from bsszoo.compression.storage import Sharing, open_study, share_controls, shared_controls
from bsszoo.errors import BudgetError, RunError, SettingsError
from bsszoo.evaluators.base import Evaluator, as_evaluator, load_evaluator
from bsszoo.evaluators.structural import StructuralEvaluator
from bsszoo.files import plain_name
from bsszoo.models.resolve import resolve
from bsszoo.search.insight import insight_of_rows
from bsszoo.search.sampler import Mode
from bsszoo.spaces.latency import LatencyModel, LatencyTable
from bsszoo.study.loop import SearchPlan, held_trials, retry_failed, run_search, trial_rows
from bsszoo.study.result import Budget, CompressResult, TrialRow
from bsszoo.study.storages import first_line
from bsszoo.study.workers import run_workers

if TYPE_CHECKING:
    from optuna.study import Study

    from bsszoo.train.watching import Watcher as TrainingWatcher

#: Trials of one search and of one batch: the paper's four iterations of sixteen.
TRIALS, BATCH = 64, 16
#: Most codes the closing table holds; at least five when as many were evaluated.
FOUND = 8
_NO_LATENCY: Final = (
    "Latencies of detectors are not measured: the time depends on how many objects they find, and "
    "untrained ones find anything."
)


class Watcher(Protocol):
    """Told how a run goes: the CLI's progress bar is one."""

    def started(self, network: str, budget: Budget) -> None:
        """The request was understood; candidates are drawn next, which takes long when few codes are feasible."""
        ...

    def planned(self, plan: Plan, evaluator: Evaluator, folder: Path, done: Sequence[TrialRow]) -> None:
        """The candidates are drawn; ``done`` are the trials that an earlier run finished."""
        ...

    def finished(self, trial: TrialRow) -> None:
        """One more trial is finished."""
        ...

    def waiting(self, trials: int) -> None:
        """Nothing is left to ask for; so many trials are still evaluated by other machines."""
        ...

    def judging(self, control: str) -> None:
        """A control, ``original`` or ``uniform``, is about to be judged."""
        ...

    def measuring(self, networks: int) -> None:
        """The latencies of so many networks are about to be measured."""
        ...

    def confirming(self, result: str, done: int, trainings: int) -> None:
        """So many of so many fresh trainings are done; ``result`` is the last one's, empty at the start."""
        ...

    def finishing(self, code: Code) -> TrainingWatcher | None:
        """The best code is about to be trained in full; who is told of that."""
        ...


@dataclass(frozen=True, slots=True)
class _Silent:
    def started(self, network: str, budget: Budget) -> None: ...

    def planned(self, plan: Plan, evaluator: Evaluator, folder: Path, done: Sequence[TrialRow]) -> None: ...

    def finished(self, trial: TrialRow) -> None: ...

    def waiting(self, trials: int) -> None: ...

    def judging(self, control: str) -> None: ...

    def measuring(self, networks: int) -> None: ...

    def confirming(self, result: str, done: int, trainings: int) -> None: ...

    def finishing(self, code: Code) -> TrainingWatcher | None: ...


def compress(
    network: str | Code | Detector,
    *,
    flops: str | float,
    params: str | float | None = None,
    activations: str | float | None = None,
    max_latency: str | float | None = None,
    latency_table: str | Path | Mapping[Any, float] | LatencyTable | None = None,
    latency_model: str | Callable[[Code], Any] | LatencyModel | None = None,
    evaluator: str | Callable[[Code], Any] = "structural",
    trials: int = TRIALS,
    batch: int = BATCH,
    seed: int = 0,
    out: str | Path | None = None,
    storage: str | None = None,
    study: str | None = None,
    workers: int = 1,
    grace: float = 60.0,
    retry: bool = False,
    search: str = "default",
    slack: float = 0.1,
    scale: float | None = None,
    caps: Caps | None = None,
    grow: bool = False,
    latency: bool = True,
    confirm: int = TRAININGS,
    finish: Finish | None = None,
    watcher: Watcher | None = None,
) -> CompressResult:
    """Search codes of a network's family under a budget.

    Every candidate keeps the budget before anything is built. docs/sampler has the search. A run that was
    stopped, by Ctrl-C or by a kill, goes on when it is called again with the same settings; ``trials`` may grow.

    Args:
        network: What is compressed, and the first control: whatever ``bsszoo.models.resolve`` takes, such as a name
            of the zoo, a code, a weights file or a training's folder, whose code is searched from. Of a detector
            (``maskrcnn_resnet50``) the backbone's code is searched, and every limit is on the detector.
        flops: Most multiply-adds (the paper's FLOPs; half of what tools that count 2 x MACs show): ``"130M"``,
            ``"0.13G"``, ``130e6``, or ``"60%"`` of the network's own.
        params: Most parameters, likewise.
        activations: Most activations, elements of the outputs of all convolutions, likewise.
        max_latency: Most milliseconds, as one of the following two tells them before anything is built.
        latency_table: Milliseconds of each block: a ``bsszoo.search.LatencyTable``, a mapping, or a JSON or CSV file.
        latency_model: ``"module:function"``, a function ``(Code) -> ms``, or a ``bsszoo.search.LatencyFunction``.
        evaluator: ``"structural"``, ``"module:function"``, or a function ``(Code) -> float``; higher is better.
        trials: Codes to evaluate.
        batch: Codes of the first iteration, which are dispersed over the candidates.
        seed: Seed of everything random; the same settings give the same codes.
        out: Folder of the run, by default ``bsszoo-runs/`` and the settings' name.
        storage: Storage URL, by default an SQLite file in the folder: any of Optuna's, ``journal:///path`` or
            ``grpc://host:port``.
        study: Name of a study in the storage that several machines share, each by the same call.
        workers: Processes on this machine, each of which evaluates one code at a time.
        grace: Seconds without a sign of life after which a worker is taken for dead and its code is evaluated again.
        retry: Evaluate the codes again that failed in an earlier run.
        search: ``"default"``, our search, or ``"paper"``, the one of AutoBSS's appendix A.1.
        slack: Share of the budget that a code may leave unused: candidates have at least (1 - slack) x ``flops``.
        scale: Scale of the grid of widths, by default what meets the budget.
        caps: How far candidates may go from the uniformly rescaled network; by default the structural score's own
            caps, and none for any other evaluator.
        grow: Allow a budget above the network's own multiply-adds, which makes it larger.
        latency: Measure the forward time of the networks in the closing table on this machine.
        confirm: With an evaluator that trains: fresh trainings each of the best code and of the uniformly rescaled
            network, and the number of random codes, all measured on pictures that the search never saw; 0 for none.
        finish: How the best code is trained in full at the end; None for not at all.
        watcher: Told how the run goes.

    Raises:
        BudgetError: No code meets the budget, or it would make the network larger and ``grow`` is not given.
        UnknownNameError, CodeError: There is no such network or evaluator.
        SettingsError: A setting makes no sense, or the folder or the storage cannot be used.
        RunError: Every trial failed.
        StoppedError: SIGTERM came.
    """
    start = time.perf_counter()
    watcher = watcher or _Silent()
    _check_counts(trials, batch, seed, slack, confirm)
    mode = _mode(search)
    sharing = Sharing(storage, study, workers, grace)
    named = resolve(network)
    head = None if named.detector is None else DetectorHead.of(named.detector)
    reference = named.code
    whole = str(reference if head is None else head.on(reference))
    cost = network_cost(reference, head)
    within = latency_limit(max_latency, latency_table, latency_model)
    budget = Budget(
        macs=(macs := parse_amount(flops, of=cost.macs, what="--flops")),
        min_macs=int(macs * (1 - slack)),
        params=None if params is None else parse_amount(params, of=cost.params, what="--params"),
        activations=None
        if activations is None
        else parse_amount(activations, of=cost.activations, what="--activations"),
        latency_ms=None if within is None else within.most,
    )
    if hint := plausible(macs, flops):
        raise BudgetError(f"--flops is {flops!r}, {macs} multiply-adds.{hint}")
    # What is named by a place on this machine is recorded by its code.
    title = network if isinstance(network, str) and network[:1] != "{" and named.source is None else whole
    if not grow:
        check_not_larger(title, cost.macs, macs)
    judge = _evaluator(evaluator)
    if finish is not None:
        finish.check(reference)
    structural = judge is None
    asked = caps is not None
    caps = (STRUCTURAL_CAPS if structural else Caps()) if caps is None else caps
    sharing.reach()
    watcher.started(whole, budget)
    plan = make_plan(
        reference,
        budget,
        caps=caps,
        seed=seed,
        scale=scale,
        strict=asked,
        latency=None if within is None else within.model,
        head=head,
    )
    if judge is None:
        judge = StructuralEvaluator.over(plan.space, plan.candidates)

    settings = settings_of(title, reference, budget, judge, batch, seed, plan, caps, sharing, mode)
    settings |= {} if within is None else within.settings
    todo = SearchPlan(plan.space, plan.candidates, judge, trials, batch)
    name = folder_name(title, budget, judge, seed, settings)
    with _place(out, name, sharing) as folder, ends_in_order(folder), _storage_faults(folder, storage):
        check_settings(folder, settings)
        address, kept = open_study(sharing, mode, todo, settings, folder)
        write_json(folder / SETTINGS, settings)
        if isinstance(plan.limits.latency, LatencyTable):
            plan.limits.latency.save(folder / LATENCIES)  # `bsszoo report` draws the candidates again
        earlier = trial_rows(kept, todo)
        check_trials(folder, held_trials(kept, todo))
        if retry:
            again = retry_failed(kept, todo)
            earlier = earlier if not again else [row for row in earlier if row.state == "complete"]
        watcher.planned(plan, judge, folder, earlier)
        shared_controls(kept, folder)
        controls, notes = judge_controls(plan, judge, folder, watcher.judging)
        if study is not None:
            share_controls(kept, folder)
        if workers > 1:
            run_workers(
                address,
                todo,
                watcher.finished,
                workers=workers,
                lease=sharing.lease,
                alone=study is None,
                waiting=watcher.waiting,
            )
        else:
            run_search(kept, todo, watcher.finished, lease=sharing.lease, waiting=watcher.waiting)
        rows = trial_rows(kept, todo)
        found = diverse(rows, FOUND)
        if not found:
            cause = next((r.error for r in rows if r.error), "no reason was recorded").rstrip(".")
            raise RunError(
                f"All {len(rows)} trials failed; the first reason: {cause}. Mend the evaluator "
                f"{judge.info.name} and run the same command with --retry-failed, or with another --out "
                "if its file changed."
            )
        if len(plan.candidates) < trials:
            notes.append(
                f"Only {len(plan.candidates)} codes keep the limits: all were evaluated, where {trials} "
                "trials were asked for."
            )
        notes += doubts(judge, found[0].score)
        # How long the second stage of an untrained detector takes says nothing of a trained one.
        notes += [_NO_LATENCY] if latency and head is not None else []
        failed = sum(r.state == "failed" for r in rows)
        if failed:
            notes.append(f"{failed} of {len(rows)} trials failed; trials.csv holds their reasons.")
        result = CompressResult(
            family=reference.family,
            reference=title,
            budget=plan.budget,
            evaluator=judge.info,
            seed=seed,
            scale=plan.scale,
            candidates=len(plan.candidates),
            caps=plan.caps,
            notes=(*plan.notes, *notes),
            networks=with_predictions([*controls, *found_rows(found)], plan.limits.latency),
            trials=tuple(rows),
            seconds=round(time.perf_counter() - start, 3),
            versions=versions_of(),
            training=training_facts(judge, finish, folder),
            head=head,
        )
        from bsszoo.report.page import write_report

        # Written before latencies are measured, which may fail on a small machine: the search must not be lost.
        with understood(folder / RESULT, result_aside(folder)):
            result = with_earlier(result, read_result(folder), plan)
        write_result(folder, result)
        insight = insight_of_rows(plan.candidates, rows)
        write_report(result, folder / REPORT, insight)
        if latency and head is None:
            watcher.measuring(len(result.networks))
            networks, how = with_latencies(result.networks)
            result = replace(result, networks=tuple(networks), notes=(*result.notes, how))
            write_result(folder, result)
            write_report(result, folder / REPORT, insight)
        closing = _closing_trainings(result, plan, judge, kept, folder, confirm, workers, finish, watcher)
        for longer in closing:
            result = longer
            write_result(folder, result)
            write_report(result, folder / REPORT, insight)
    return result


def _closing_trainings(
    result: CompressResult,
    plan: Plan,
    judge: Evaluator,
    study: Study,
    folder: Path,
    trainings: int,
    workers: int,
    how: Finish | None,
    watcher: Watcher,
) -> Iterator[CompressResult]:
    """The result with what is trained after the search, each time that there is more of it."""
    if trainings and isinstance(judge, Tester):
        found = confirm_found(
            judge,
            plan,
            result.best.code,
            study,
            trainings=trainings,
            workers=workers,
            seed=result.seed,
            on_result=watcher.confirming,
        )
        yield (result := replace(result, confirmation=found, notes=(*result.notes, *found.notes)))
    if how is not None:
        code = result.best.code
        finished = finish_found(how, code, plan.reference, folder, watcher.finishing(code))
        yield replace(result, finished=finished)


@contextmanager
def _place(out: str | Path | None, name: str, sharing: Sharing) -> Iterator[Path]:
    """The folder of the run, held for as long. Machines that share a study may share a disk too: each has its own."""
    if out is not None:
        with run_folder(Path(out)):
            yield Path(out)
    elif sharing.study is None:
        with run_folder(folder := Path("bsszoo-runs") / name):
            yield folder
    else:
        with first_free_folder(Path("bsszoo-runs") / f"{name}_{plain_name(platform.node())}") as folder:
            yield folder


@contextmanager
def _storage_faults(folder: Path, storage: str | None) -> Iterator[None]:
    """A full disk or a lost database as an error in words; what the study holds stays."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except Exception as error:
        faults: tuple[type[Exception], ...] = (OSError, StorageInternalError, SQLAlchemyError)
        if "grpc" in sys.modules:  # loaded with the first call of a proxy, if at all
            faults += (sys.modules["grpc"].RpcError,)
        if not isinstance(error, faults):
            raise
        raise RunError(
            f"The run in {folder} cannot be written: {first_line(error, storage or '')}. Finished trials "
            "are kept; the same command goes on when there is room and the storage answers."
        ) from error


def _evaluator(evaluator: object) -> Evaluator | None:
    """The evaluator, or None for the structural one, which needs the candidates first."""
    if isinstance(evaluator, str):
        return None if evaluator == "structural" else load_evaluator(evaluator)
    return as_evaluator(evaluator)


def _mode(search: str) -> Mode:
    modes: dict[str, Mode] = {"default": "default", "paper": "paper"}
    if search not in modes:
        raise SettingsError(f"--search is {search!r}; it takes default or paper.")
    return modes[search]


def _check_counts(trials: int, batch: int, seed: int, slack: float, confirm: int) -> None:
    counts = (("--trials", trials, 1), ("--batch", batch, 1), ("--seed", seed, 0), ("--confirm", confirm, 0))
    for name, value, least in counts:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise SettingsError(f"{name} is {value!r}; it takes an integer from {least}.")
    if isinstance(slack, bool) or not isinstance(slack, (int, float)) or not 0 < slack <= 1:
        raise BudgetError(f"--slack is {slack!r}; it takes a share above 0 and up to 1, e.g. 0.1.")

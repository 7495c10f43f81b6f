"""``Compression``: from a network and a budget to several good codes and their training, phase by phase."""

from __future__ import annotations

import hashlib
import json
import platform
import shlex
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from bsszoo.codes.code import Code
from bsszoo.codes.detector import Detector, DetectorHead, network_cost
from bsszoo.compression.budget import LatencyLimit, check_not_larger, latency_limit, read_latency, resolved_budget
from bsszoo.compression.confirm import Deliverer, Tester, chosen, trainings_most
from bsszoo.compression.confirm import confirm as confirm_best
from bsszoo.compression.events import Callback, Event, Inside, SearchEvents, TrainingEvents, begun, confirming, planned
from bsszoo.compression.finish import Finish, read_finish, train_here
from bsszoo.compression.finish import finish as finish_best
from bsszoo.compression.folder import (
    CONTROLS,
    LATENCIES,
    NOTES,
    ONNX,
    RECOMMENDED,
    RECOMMENDED_WEIGHTS,
    REPORT,
    RESULT,
    SETTINGS,
    check_settings,
    check_trials,
    first_free_folder,
    int8_file,
    is_written,
    notes_in,
    read_json,
    read_result,
    result_aside,
    run_folder,
    scores_in,
    understood,
    write_json,
    write_result,
)
from bsszoo.compression.plan import Plan, around_uniform, budget_space, caps_of, make_plan
from bsszoo.compression.quantised import Timing, Wanted, WithNetworks, quantise_networks
from bsszoo.compression.result import (
    CompressResult,
    assemble,
    candidates_fingerprint,
    controls_of,
    prediction_error,
    seconds_of,
    slower_than_uniform,
    still_quantised,
    training_facts,
    versions,
    with_earlier,
)
from bsszoo.compression.stopping import ends_in_order
from bsszoo.compression.storage import Sharing, open_study, share_controls, shared_controls
from bsszoo.digits import CLASSES as DIGIT_CLASSES
from bsszoo.digits import DIGITS, digits_folder, is_trained, train_on_digits, training_folder
from bsszoo.errors import AssumptionWarning, BudgetError, EvaluationError, RunError, SettingsError
from bsszoo.evaluators.base import Evaluator, FullTraining, digest, listening
from bsszoo.evaluators.registry import INHERITED, STRUCTURAL, Request, make_evaluator
from bsszoo.files import plain_name
from bsszoo.formats import FORMATS, QUANTISED
from bsszoo.latency.runtimes import DEFAULT, int8_format, runtime_of
from bsszoo.models.resolve import Network, resolve, with_weights
from bsszoo.options import REDUCTION, Budget, Options
from bsszoo.report.commands import PICTURES
from bsszoo.report.figures import human
from bsszoo.search.insight import Insight, insight_of_rows
from bsszoo.search.sampler import Mode
from bsszoo.spaces.limits import Caps, LatencyModel, LatencyTable, predicted
from bsszoo.spaces.space import DIVISOR, GROWN, Space
from bsszoo.study.loop import SearchPlan, held_trials, reason, retry_failed, run_search, trial_rows
from bsszoo.study.ray_cluster import RayCluster, Resources
from bsszoo.study.ray_search import each_on_ray, run_on_ray
from bsszoo.study.result import Quantised, ResolvedBudget
from bsszoo.study.storages import StudyAddress, first_line, masked
from bsszoo.study.workers import run_workers
from bsszoo.texts import one_line

if TYPE_CHECKING:
    from optuna.study import Study
    from torch import nn

    from bsszoo.evaluators.own import NetworkFunctions
    from bsszoo.evaluators.training import CandidateTrainings

# All networks of the table are in memory together while they take turns: 4 bytes a parameter.
_MOST_PARAMS: Final = 1_500_000_000
_NO_LATENCY: Final = (
    "Latencies of detectors are not measured: the time depends on the number of detected objects, "
    "which says nothing for untrained ones."
)
_AS_FAST_DROPPED: Final = (
    "Too few codes are as fast as the uniformly rescaled network, so candidates may be slower: no limit on latency."
)
_CONTROLS: Final = {"original": "the original network", "uniform": "the uniformly rescaled network"}


@dataclass(frozen=True, eq=False)
class _Prepared:
    """The options resolved before anything is written: the plan, and the settings that identify the run."""

    network: Network
    title: str
    plan: Plan
    search: SearchPlan
    sharing: Sharing
    mode: Mode
    finish: Finish | None
    trainer: CandidateTrainings | None
    settings: Mapping[str, Any]
    folder_name: str

    @property
    def evaluator(self) -> Evaluator:
        return self.search.evaluator

    @property
    def judge(self) -> Evaluator:
        """What measures codes after the search: where that trained nothing, their trainings."""
        return self.evaluator if self.trainer is None else self.trainer


@dataclass(frozen=True, eq=False)
class _Opened:
    """A run's folder and study, locked by this process; ``earlier`` is the content of ``result.json`` before."""

    folder: Path
    address: StudyAddress
    study: Study
    earlier: Mapping[str, Any] | None
    since: float

    @property
    def seconds(self) -> float:
        """Duration of the run [s], in this process and in earlier ones."""
        return time.perf_counter() - self.since + seconds_of(self.earlier)


class Compression:
    """The compression of a network under a budget, phase by phase.

    Each phase is a method that resumes where an earlier process stopped and returns the result so far:
    ``search``, ``measure`` (latencies), ``confirm`` (fresh trainings beside the controls), ``finish`` (the best code in
    full). Everything is in the run's folder, and in the study where that is elsewhere. Within ``with`` the folder
    stays locked; else each method locks it.

    Args:
        network: The network to compress, and the first control: whatever ``bsszoo.models.resolve`` takes, such as
            a name of the zoo, a code, a weights file or a training's folder, whose code the search starts from. Of a
            detector (``maskrcnn_resnet50``) the backbone's code is searched, and every limit is on the detector.
        budget: What a code may cost at most; None where its options are among ``options``.
        callbacks: Called with each ``Event``.
        evaluate, fine_tune, test, images: In place of ``data``, your own functions of a network:
            ``bsszoo.evaluators.own.NetworkFunctions``.
        options: Options by their names, such as ``data="pictures"``, ``evaluator=..``, ``trials=32``, ``out=..``; they
            are described in ``bsszoo.options`` and by ``bsszoo compress --help``.

    Raises:
        SettingsError, BudgetError: There is no such option, or a value is invalid.

    Example:
        >>> job = Compression("resnet18", Budget(flops="60%"), trials=4, batch=2, measure=False, out="run")
        >>> job.search().best.role
        'found'
    """

    def __init__(
        self,
        network: str | Path | Code | Detector | nn.Module,
        budget: Budget | None = None,
        *,
        callbacks: Sequence[Callback] = (),
        evaluate: Callable[[Any], float] | None = None,
        fine_tune: Callable[..., Any] | None = None,
        test: Callable[[Any], float] | None = None,
        images: Any = None,
        **options: Any,
    ) -> None:
        self.network, self.options = network, Options.of(budget, **options)
        self._functions = _functions(self.options, evaluate, fine_tune, test, images)
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self.callbacks = list(callbacks)
        #: The run's folder, once it is open.
        self.folder: Path | None = None
        self._opened_now: _Opened | None = None
        self._lock: ExitStack | None = None
        self._cluster: RayCluster | None = None
        self._insight: tuple[int, Insight | None] = (-1, None)

    def __enter__(self) -> Compression:
        with ExitStack() as stack:
            stack.enter_context(self._open())
            self._lock = stack.pop_all()
        return self

    def __exit__(self, *exception: Any) -> bool | None:
        assert self._lock is not None
        return self._lock.__exit__(*exception)

    # -- phases -----------------------------------------------------------------------------------------------

    def search(self) -> CompressResult:
        """Judge the controls, and codes until the study holds the number of trials requested.

        Raises:
            BudgetError: No code meets the budget, or it would make the network larger and ``grow`` is not set.
            UnknownNameError, CodeError: There is no such network or evaluator.
            SettingsError: The folder or the storage cannot be used.
            RunError: Every trial failed.
            StoppedError: SIGTERM was received.
        """
        with self._open() as run:
            prepared, options = self._prepared, self.options.search
            earlier = trial_rows(run.study, prepared.search)
            if options.retry_failed and retry_failed(run.study, prepared.search):
                earlier = [row for row in earlier if row.state != "failed"]
            self._emit(
                planned(prepared.plan, prepared.evaluator.info, run.folder, len(earlier), prepared.search.trials)
            )
            prepared.evaluator.prepare(lambda note: self._emit(Event("plan", note)))
            left = prepared.search.wanted - len(earlier)
            cluster = self._cluster
            if cluster is not None and left > 0:
                evaluator = prepared.evaluator
                cluster.check(evaluator, evaluator.writes, evaluator.reads)
                self._emit(Event("plan", f"Ray: {cluster.described}"))
            trainings = self.options.end.confirm if isinstance(prepared.evaluator, Tester) else 0
            judge = prepared.evaluator
            leaders = judge.leaders if isinstance(judge, Deliverer) else 1
            # Beside the uniformly rescaled network; the random codes are as many trainings as those of one more.
            finalists = leaders + 1 + (not isinstance(judge, Deliverer) or judge.controls == "random")
            # The estimate is of this machine.
            if (
                left > 0
                and cluster is None
                and (text := judge.estimate(left, finalists, trainings, prepared.plan.uniform))
            ):
                if isinstance(prepared.evaluator, Deliverer) and trainings:
                    most = trainings_most(prepared.evaluator, trainings, self.options.end.confirm_most)
                    text += f" Up to {most} times those that are not told apart." if most > trainings else ""
                self._emit(Event("plan", text))
            scores = self._judge_controls(run)
            if not earlier and (refusal := judge.too_short(scores)) is not None:
                raise SettingsError(refusal)
            inside = Inside(self._emit, "search")
            events = SearchEvents(inside, earlier, prepared.search.wanted)
            events.started()
            if cluster is not None:
                with listening(inside.updated):
                    run_on_ray(run.study, prepared.search, events.finished, cluster, most=options.workers)
            elif (options.workers or 1) > 1:
                run_workers(
                    run.address,
                    prepared.search,
                    events.finished,
                    workers=options.workers or 1,
                    lease=prepared.sharing.lease,
                    alone=options.study is None,
                    waiting=events.waiting,
                )
            else:
                with listening(inside.updated):
                    run_search(
                        run.study,
                        prepared.search,
                        events.finished,
                        lease=prepared.sharing.lease,
                        waiting=events.waiting,
                    )
            return self._write(run, self._assembled(run))

    def measure(self) -> CompressResult:
        """Measure the forward time of the result's networks on this machine, which take turns.

        Times of these networks that an earlier process has measured, by the same versions, are kept.
        """
        with self._open() as run:
            result = self._assembled(run)
            if all(row.latency_ms is not None for row in result.networks):
                earlier = read_result(run.folder) or {}
                if earlier.get("versions") == result.versions:
                    return self._write(run, result)
            if result.head is not None:
                # The time of an untrained detector's second stage says nothing of a trained one's.
                return self._noted(run, result, "measure", [_NO_LATENCY])
            if sum(row.cost.params for row in result.networks) > _MOST_PARAMS:
                note = "Latencies were not measured: the networks are too large to be in memory together."
                return self._noted(run, result, "measure", [note])
            from bsszoo.latency.timer import measure_latencies

            number = len(result.networks)
            self._emit(Event("measure", f"Measuring the latency of {number} networks on this machine ..."))
            space, budget = self._prepared.plan.space, self.options.budget
            latencies = measure_latencies(
                [row.code for row in result.networks],
                num_classes=space.num_classes,
                in_chans=space.in_chans,
                batch=budget.latency_batch,
                threads=budget.threads,
                runtime=budget.runtime,
                on_network=lambda done, total: self._emit(Event("measure", "", done, total, minor=True)),
            )
            networks = [
                replace(row, latency_ms=latency.median_ms)
                for row, latency in zip(result.networks, latencies, strict=True)
            ]
            how = (
                f"median of {latencies[0].runs} forwards of {'one image' if budget.latency_batch == 1 else ''}"
                f"{f'{budget.latency_batch} images' if budget.latency_batch > 1 else ''}, {latencies[0].where}, the "
                "networks taking turns."
            )
            asked = result.budget.latency_ms if budget.latency is not None else None
            said = [*self._other_runtime(), *prediction_error(networks, asked), *slower_than_uniform(networks)]
            notes = [f"Latency: {how}", *said]
            return self._noted(run, replace(result, networks=tuple(networks)), "measure", notes)

    def _other_runtime(self) -> list[str]:
        """A note where the table that limited the run has another runtime's times than those measured here."""
        model, runtime = self._prepared.plan.limits.latency, self.options.budget.runtime
        if not isinstance(model, LatencyTable) or not model.notes:
            return []
        theirs = one_line(str(model.notes.get("runtime", DEFAULT)), 40)
        if theirs == runtime:
            return []
        return [
            f"{model.name} has the times of {theirs}, and those measured here are of {runtime}: --runtime {theirs} "
            "measures these too."
        ]

    def confirm(self, trainings: int | None = None) -> CompressResult:
        """Train the best codes and controls again, and measure them on images that the search did not see.

        The best three where the search inherits weights, the best six once and three of them further where it trains;
        of one without trainings and with images all its
        best codes, once it is over. Of the one to take (``CompressResult.recommended``) the best training's network is
        written to ``recommended/``.

        Args:
            trainings: Fresh trainings each, in place of the option ``confirm``; 0, or an evaluator that trains
                nothing, leaves the result unchanged.
        """
        with self._open() as run:
            result, judge = self._assembled(run), self._prepared.judge
            trainer = self._prepared.trainer
            trainings = self.options.end.confirm if trainings is None else trainings
            if not trainings or not isinstance(judge, Tester):
                return result
            found = [row.code for row in result.networks if row.role == "found"]
            inside = Inside(self._emit, "confirm")
            elsewhere, cluster, most = None, self._cluster, self.options.search.workers
            if cluster is not None:
                cluster.check(judge.tested, self._prepared.judge.writes, self._prepared.judge.reads)
                elsewhere = partial(each_on_ray, cluster, most=most)

            def told(text: str, done: int, total: int) -> None:
                inside(confirming(text, done, total))
                if not text and done < total and trainer is not None and cluster is None:
                    from bsszoo.evaluators.training import about

                    seconds = (total - done) * trainer.seconds_of(self._prepared.plan.uniform)
                    inside(Event("confirm", f"Estimate: {about(seconds)} of updates on this machine.", done, total))

            with listening(inside.updated):
                confirmation = confirm_best(
                    judge,
                    self._prepared.plan,
                    found[: judge.screened if isinstance(judge, Deliverer) else 1],
                    run.study,
                    trainings=trainings,
                    most=self.options.end.confirm_most,
                    workers=most or 1,
                    seed=result.seed,
                    mark="" if trainer is None else trainer.fingerprint,
                    on_result=told,
                    elsewhere=elsewhere,
                )
            best = chosen(confirmation.rows)
            if trainer is not None and best is not None and (doubt := trainer.doubt(sum(best.held) / len(best.held))):
                confirmation = replace(confirmation, notes=(*confirmation.notes, doubt))
            result = replace(result, confirmation=confirmation)
            result = replace(result, quantised=still_quantised(result.quantised, result))
            if isinstance(judge, Deliverer):
                row = result.confirmed(result.recommended.code)
                if row is not None and row.held:
                    from bsszoo.models.weights import sha256_of

                    weights = run.folder / RECOMMENDED_WEIGHTS
                    before = sha256_of(weights) if weights.is_file() else None
                    judge.deliver(row.code, row.taken, run.folder / RECOMMENDED)
                    if sha256_of(weights) != before:  # of another network
                        formats = [FORMATS[name] for name in QUANTISED]
                        int8 = [file for of in formats for file in of.files(run.folder / int8_file(of))]
                        for file in (run.folder / ONNX, *int8):
                            file.unlink(missing_ok=True)
            return self._noted(run, result, "confirm", confirmation.notes)

    def export(self) -> CompressResult:
        """Write the recommended network as an ONNX file beside its weights, and run it to compare it with PyTorch.

        A file that is there is of these weights, and stays: ``confirm`` removes it where it delivers others.

        Raises:
            SettingsError: There is no such network yet, or the packages that write and run ONNX are not installed.
            RunError: It cannot be exported; no file is left.
        """
        with self._open() as run:
            if not (run.folder / RECOMMENDED_WEIGHTS).is_file():
                raise SettingsError(f"{run.folder} holds no trained network to export: confirm() ends with one.")
            result = self._assembled(run)
            if (run.folder / ONNX).is_file():
                return result
            from bsszoo.export import export
            from bsszoo.models.create import create

            self._emit(Event("export", f"Writing {run.folder / ONNX} and comparing it with PyTorch ..."))
            network = create(f"local-dir:{run.folder / RECOMMENDED}", pretrained=True).eval()
            export(network, run.folder / ONNX, label=result.name_of(result.recommended.code))
            return self._write(run, result)

    def quantise(self) -> CompressResult:
        """Quantise the trained networks of the closing table to int8, and measure what that changes.

        The original, the uniformly rescaled and the recommended one, those with weights: accuracy on the images that
        the search did not see, size and latency, in float32 and int8 by the run's runtime, in place of PyTorch by
        onnxruntime. Figures that the result has are not measured again. The recommended one is written to
        ``recommended/model.int8.onnx``, of OpenVINO to ``.xml`` and ``.bin``, of LiteRT to ``.tflite``.

        Raises:
            SettingsError: There is no trained network yet, or the packages that quantise are not installed.
            RunError: A network cannot be exported or quantised.
        """
        with self._open() as run:
            judge, result = self._prepared.judge, self._assembled(run)
            take, roles = result.recommended, {"original": 0, "uniform": 1}
            rows = [row for row in result.networks if row.role in roles or row.code == take.code]
            rows.sort(key=lambda row: (row.code == take.code, roles.get(row.role, 2)))
            pairs = [(row, result.confirmed(row.code)) for row in {row.code: row for row in rows}.values()]
            wanted = [Wanted(row.label, row.code, of.taken) for row, of in pairs if of is not None]
            if not isinstance(judge, WithNetworks) or not wanted or wanted[-1].code != take.code:
                raise SettingsError(f"{run.folder} holds no trained network to quantise: confirm() ends with one.")
            format = int8_format(self.options.budget.runtime)
            format.check(quantises=True)
            budget, timing = self.options.budget, None
            if self.options.end.measure:
                timing = Timing(budget.latency_batch, budget.threads)

            def done(quantised: Quantised, number: int, text: str) -> None:
                self._emit(Event("quantise", text, number, len(wanted), minor=not text))
                if not text:
                    self._write(run, replace(result, quantised=quantised))

            quantised = quantise_networks(
                judge, wanted, run.folder, result.quantised, format=format, timing=timing, on_network=done
            )
            return self._write(run, replace(result, quantised=quantised))

    def finish(self, how: Finish | None = None) -> CompressResult:
        """Train the recommended code in full, in the run's folder; without fresh trainings the best code.

        Args:
            how: Settings in place of the option ``finish``; without either the result is unchanged.
        """
        with self._open() as run:
            result = self._assembled(run)
            how = self._prepared.finish if how is None else how
            if how is None:
                return result
            code, reference = result.taken_in_full.code, self._prepared.plan.reference
            text = f"Training the {'best' if code == result.best.code else 'recommended'} code in full: {code}"
            if self._cluster is None:
                finished = finish_best(how, code, reference, run.folder, TrainingEvents(self._emit, "finish", text))
            else:
                self._emit(Event("finish", f"{text}, on a Ray node with {self._cluster.whole_node()}"))
                trained = partial(self._train_on_ray, self._cluster, how)
                finished = finish_best(how, code, reference, run.folder, elsewhere=trained)
            return self._write(run, replace(result, finished=finished))

    def _train_on_ray(self, cluster: RayCluster, how: Finish, recipe: Path, out: Path) -> None:
        """Train in full on all GPUs of a node, by a process each; without GPUs by one process."""
        reads = () if how.data is None else (Path(how.data).absolute(),)
        cluster.check(train_here, (out.parent,), reads)
        node = cluster.whole_node()
        values = recipe, out, how.data, how.device, max(1, int(node.gpus))

        def updated(done: int, total: int) -> None:
            self._emit(Event("finish", f"update {done:,} of {total:,}", done, total, minor=True))

        with listening(updated):
            for _, result in each_on_ray(cluster, train_here, [values], resources=node):
                try:
                    result()
                except EvaluationError as error:
                    raise RunError(f"The training in full failed. {error}") from None

    def result(self) -> CompressResult:
        """The result of the study and the folder so far."""
        with self._open() as run:
            return self._assembled(run)

    def run(self) -> CompressResult:
        """All requested phases in order; each one's result is written before the next begins."""
        with self._open():
            result = self.search()
            if self.options.end.measure:
                result = self.measure()
            if self.options.end.confirm:
                result = self.confirm()
            if self.options.end.onnx:
                result = self.export()
            if self.options.end.quantize is not None:
                result = self.quantise()
            return result if self._prepared.finish is None else self.finish()

    # -- before anything is written ---------------------------------------------------------------------------

    @cached_property
    def _prepared(self) -> _Prepared:
        options = self.options
        processes = 1 if options.search.ray is not None else options.search.workers
        sharing = Sharing(
            options.search.storage, options.search.study, 1 if processes is None else processes, options.search.grace
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AssumptionWarning)  # a note of the plan says it
            network = resolve(self.network, code=options.training.code)
        wanted = options.budget
        runtime_of(wanted.runtime)
        given = wanted.latency_table, wanted.latency_model
        modelled = any(model is not None for model in given)
        if wanted.latency is not None:
            read_latency(wanted.latency)
            if not modelled and network.detector is not None:
                raise SettingsError(_NO_LATENCY + " Give --latency-table or --latency-model.")
            if not modelled and options.search.study is not None:
                raise SettingsError(
                    "Machines that share a study need one table of latencies: make one with `bsszoo latency-table` "
                    "on the machine that the network is for, and give it to all with --latency-table."
                )
        folder = Path("bsszoo-runs" if options.search.out is None else options.search.out)
        training = options.training
        if self._functions is not None or (
            training.has_data and options.search.evaluator in (None, INHERITED) and network.detector is None
        ):
            network = self._with_weights(network)
        if options.end.quantize is not None:
            self._check_quantisation(network)
        # Of subnetworks' widths, and how much larger than the network's.
        step, grow = options.grid.divisor_or(DIVISOR) or 1, GROWN if wanted.grow else 1.0
        if training.data == DIGITS:
            training = replace(training, data=digits_folder())
            if network.source is None and network.detector is None and options.search.evaluator != STRUCTURAL:
                if not is_trained(network.code):
                    if options.search.evaluator in (None, INHERITED):
                        self._check_possible(network.code, step, grow)
                    text = f"Training {network.code} on digits first; it is kept"
                    train_on_digits(network.code, TrainingEvents(self._emit, "original", text))
                network = resolve(training_folder(network.code))
        if options.search.search == "paper" and training.rungs is None and training.has_data:
            training = replace(training, rungs="none")  # the paper trains every code in full
        exact = options.search.search == "paper" or options.grid.scale is not None
        divisor = options.grid.divisor_or(None if exact else DIVISOR)
        request = Request(network, training, folder, tested=options.end.confirm > 0, divisor=step, grow=grow)
        # The budget is read twice: first so that an invalid one is reported before images are opened.
        if modelled:
            latency_limit(None, *given)
        resolved_budget(wanted, _cost(network), None)
        evaluator = (
            make_evaluator(options.search.evaluator, request)
            if self._functions is None
            else self._functions.requested(request)
        )
        if options.end.onnx:
            self._check_export(evaluator)
        counted = evaluator.searched(network)
        head = None if counted.detector is None else DetectorHead.of(counted.detector)
        reference, space = counted.code, evaluator.space(counted)
        whole = str(reference if head is None else head.on(reference))
        cost = _cost(counted) if space is None else space.cost(reference)
        priced = space
        if priced is None and head is None:
            most = resolved_budget(wanted, cost, None).macs
            priced = budget_space(reference, most, options.grid.scale, divisor=divisor)
        table = None
        if wanted.latency is not None and not modelled:
            assert priced is not None
            table = self._latency_table(priced, reference)

        def own(model: LatencyModel) -> float | None:
            return None if priced is None else predicted(model, reference, priced)

        limit = latency_limit(wanted.latency, given[0] if table is None else table, given[1], own)
        budget = resolved_budget(wanted, cost, limit)
        # A network named by a path on this machine is recorded by its code, and so is one that is counted otherwise.
        named = isinstance(self.network, str) and self.network[:1] != "{" and network.source is None
        title = str(self.network) if named and counted is network else whole
        if not wanted.grow:
            check_not_larger(title, wanted, cost, budget, None if limit is None else own(limit.model))
        finish = self._finish(request, evaluator)
        if finish is not None:
            finish.check(reference)
        trainer = None
        if evaluator.info.heuristic and training.has_data and options.end.confirm and finish is None and head is None:
            from bsszoo.evaluators.training import CandidateTrainings

            # A digit in a mirror is none.
            trainer = CandidateTrainings.requested(request, flips=options.training.data != DIGITS)
        caps = caps_of(options.grid, evaluator.caps)
        sharing.reach()
        self._emit(begun(whole, budget))

        def make(limit: LatencyLimit | None, *, strict: bool) -> Plan:
            return make_plan(
                reference,
                resolved_budget(wanted, cost, limit),
                caps=caps,
                seed=options.search.seed,
                scale=options.grid.scale,
                strict=strict,
                latency=None if limit is None else limit.model,
                head=head,
                space=space,
                divisor=divisor,
            )

        plan = make(limit, strict=options.grid.capped)
        trials = evaluator.trials if options.search.trials is None else options.search.trials
        if evaluator.info.heuristic and priced is not None and limit is None:
            as_fast = self._as_fast(priced, reference, plan.uniform)
            if as_fast is not None:
                try:
                    # With all caps: the limit on latency is the first to be dropped.
                    faster: Plan | None = make(as_fast, strict=True)
                except BudgetError:
                    faster = None
                same = faster is not None and replace(faster.budget, latency_ms=None) == plan.budget
                if faster is not None and same and len(faster.candidates) >= trials:
                    plan, limit = faster, as_fast
                else:
                    plan = replace(plan, notes=(*plan.notes, _AS_FAST_DROPPED))
            elif options.search.out is not None and _AS_FAST_DROPPED in notes_in(Path(options.search.out)).get(
                "plan", []
            ):
                plan = replace(plan, notes=(*plan.notes, _AS_FAST_DROPPED))
        if network.assumed:
            text = f"The network's {network.assumed}: where it is otherwise, name its code with --code."
            plan = replace(plan, notes=(*plan.notes, text))
        evaluator = evaluator.over(plan.space, plan.candidates)
        ours = options.search.search == "default"
        share = options.search.replicates
        if share is None:
            share = evaluator.replicates if ours and options.training.repeats == 1 else 0.0
        search = SearchPlan(
            plan.space,
            plan.candidates,
            evaluator,
            trials,
            options.search.batch,
            options.search.reduction,
            share,
            around_uniform(plan, min(evaluator.around, options.search.batch // 2, max(2, trials // 8))) if ours else (),
            evaluator.pilots,
        )
        scaled = (budget_space(reference, budget.macs, plan.scale, head, d) for d in (divisor, None))
        rounded = next(scaled) != next(scaled)
        settings = {
            "network": title,
            "code": str(reference),
            "macs": budget.macs,
            "min_macs": budget.min_macs,
            "params": budget.params,
            "activations": budget.activations,
            **({} if budget.min_params is None else {"min_params": budget.min_params}),
            **({} if budget.min_latency_ms is None else {"min_latency_ms": budget.min_latency_ms}),
            "evaluator": evaluator.info.name,
            "evaluator_source": digest(evaluator),
            "batch": options.search.batch,
            "seed": options.search.seed,
            "scale": plan.scale,
            "caps": {
                "depth": caps.depth,
                "stage_depth": caps.stage_depth,
                "params": None if caps.params is None else list(caps.params),
            },
            "candidates": candidates_fingerprint(plan),
            "search": options.search.search,
            "storage": None if sharing.storage is None else masked(sharing.storage),
            "study": sharing.study,
            **({} if head is None else {"head": asdict(head)}),
            **({"divisor": divisor} if space is None and rounded else {}),
            **({} if space is None else {"subnetworks": space.counted}),
            **({} if options.search.reduction == REDUCTION else {"reduction": options.search.reduction}),
            **({} if options.search.replicates is None else {"replicates": share}),
            **({} if wanted.runtime == DEFAULT else {"runtime": wanted.runtime}),
            **({} if limit is None else limit.settings),
        }
        return _Prepared(
            network,
            title,
            plan,
            search,
            sharing,
            cast(Mode, options.search.search),
            finish,
            trainer,
            settings,
            _folder_name(title, budget, evaluator, settings),
        )

    def _check_possible(self, code: Code, divisor: int, grow: float) -> None:
        """A ``BudgetError`` for limits on cost that no subnetwork keeps, which need not wait for a training."""
        wanted = self.options.budget
        space = Space.subnetworks(code, divisor=divisor, grow=grow, num_classes=DIGIT_CLASSES)
        cost = space.cost(code)
        budget = resolved_budget(replace(wanted, latency=None), cost, None)
        if not wanted.grow and wanted.latency is None:
            check_not_larger(str(code), wanted, cost, budget)
        make_plan(code, budget, caps=Caps(), seed=0, candidates=1, space=space)

    def _check_export(self, evaluator: Evaluator) -> None:
        """A ``SettingsError`` where the run cannot end with an ONNX file."""
        if not isinstance(evaluator, Deliverer) or not self.options.end.confirm:
            raise SettingsError(
                "--onnx writes the recommended network, which is trained where a network with weights is compressed "
                "on --data and its leaders are fine-tuned (--confirm). Others are written by `bsszoo export`."
            )
        FORMATS["onnx"].check()

    def _check_quantisation(self, network: Network) -> None:
        """A ``SettingsError`` where the run cannot end with quantised networks."""
        if network.detector is not None:
            raise SettingsError("--quantize is for classifiers: detectors are not exported.")
        if self._functions is not None:
            raise SettingsError(
                "--quantize measures quantised networks on images of its own, and your functions take PyTorch's "
                "networks. `bsszoo export RUN/recommended --quantize int8 --images DIR` quantises the recommended one."
            )
        if not self.options.training.has_data:
            raise SettingsError("--quantize calibrates and measures trained networks on images: give them with --data.")
        if not self.options.end.confirm:
            raise SettingsError("--quantize is of the networks that are trained at the end: --confirm is 0.")
        if self.options.search.evaluator == STRUCTURAL and self.options.end.finish is not None:
            raise SettingsError(
                "--quantize is of the networks that are trained beside each other at the end, and with --finish one "
                "code alone is trained: `bsszoo export RUN/finish_.. --quantize int8 --images DIR` quantises it."
            )
        int8_format(self.options.budget.runtime).check(quantises=True)

    def _with_weights(self, network: Network) -> Network:
        """The network with a source of its weights; those of a built module are in a file while this process runs."""
        if network.module is not None and self._scratch is None:
            search, folder = self.options.search, None
            if search.ray is not None:  # for all nodes to see
                folder = Path("bsszoo-runs" if search.out is None else search.out).absolute()
                folder.mkdir(parents=True, exist_ok=True)
            self._scratch = tempfile.TemporaryDirectory(prefix=".bsszoo-", dir=folder)
        return with_weights(network, Path("" if self._scratch is None else self._scratch.name))

    def _as_fast(self, space: Space, reference: Code, uniform: Code) -> LatencyLimit | None:
        """The limit that candidates are no slower than the uniformly rescaled network; None where it does not apply.

        A run that was begun goes on with the table in its folder, or without one, whatever the machine.
        """
        search = self.options.search
        if search.search != "default" or search.study is not None:
            return None
        earlier = None if search.out is None else read_json(Path(search.out) / SETTINGS)
        if not (self.options.end.measure if earlier is None else "latency_table" in earlier):
            return None
        file = None if earlier is None else Path(str(search.out)) / LATENCIES
        table = LatencyTable.load(file) if file is not None and file.is_file() else None
        if table is None or table.missing(space):
            table = self._latency_table(space, reference)
        most = predicted(table, uniform, space)
        return None if most is None else latency_limit(most, table, None)

    def _latency_table(self, space: Space, reference: Code) -> LatencyTable:
        """A table of the space's blocks on this machine, for the network and its uniformly narrower ones too.

        That of the run's folder, where there is one; else the one that an earlier run on this machine kept.
        """
        from bsszoo.latency.table import kept_table

        budget, out = self.options.budget, self.options.search.out
        saved = None if out is None else Path(out) / LATENCIES

        def report(done: int, total: int) -> None:
            self._emit(Event("latency", "Timing blocks on this machine", done=done, total=total, minor=True))

        return kept_table(
            space,
            reference,
            saved=saved,
            batch=budget.latency_batch,
            threads=budget.threads,
            on_block=report,
            note=lambda text: self._emit(Event("latency", text)),
            runtime=budget.runtime,
        )

    def _finish(self, request: Request, evaluator: Evaluator) -> Finish | None:
        """How the best code is trained in full, or None."""
        end, training = self.options.end, request.training
        if end.finish is None or isinstance(end.finish, Finish):
            return end.finish
        if request.network.detector is not None:
            raise SettingsError(
                "--finish is for classifiers. The search of a detector ends with the command that "
                "trains the best one in full."
            )
        if not training.has_data:
            raise SettingsError("--finish trains the best code: give the images with --data.")
        from bsszoo.evaluators.training import ImageTrainings, candidates_recipe
        from bsszoo.train.classification.recipe import with_values

        def judged() -> Any:
            return evaluator.recipe if isinstance(evaluator, ImageTrainings) else candidates_recipe(request)

        recipe = read_finish(end.finish, request.network.code.family, judged, training.folder)
        if training.dataset is not None:
            recipe = with_values(recipe, data={"dataset": training.dataset})
        return Finish(recipe, training.folder, end.teacher, end.inherit)

    # -- the folder and the study -----------------------------------------------------------------------------

    @contextmanager
    def _open(self) -> Iterator[_Opened]:
        """The run's folder and study, locked against other processes."""
        if self._opened_now is not None:
            yield self._opened_now
            return
        since = time.perf_counter()
        with self._connected():
            prepared = self._prepared
            with self._opened(prepared, since) as opened:
                yield opened

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """The connection to the Ray cluster, where the run has one."""
        search = self.options.search
        if search.ray is None:
            yield
            return
        resources = None if search.ray_resources is None else Resources.read(search.ray_resources)
        with RayCluster(search.ray, resources) as self._cluster:
            try:
                yield
            finally:
                self._cluster = None

    @contextmanager
    def _opened(self, prepared: _Prepared, since: float) -> Iterator[_Opened]:
        with self._lock_folder() as folder, ends_in_order(folder), _storage_faults(folder, prepared.sharing.storage):
            self.folder = folder
            check_settings(folder, prepared.settings)
            address, study = open_study(prepared.sharing, prepared.mode, prepared.search, prepared.settings, folder)
            write_json(folder / SETTINGS, prepared.settings)
            if isinstance(prepared.plan.limits.latency, LatencyTable):
                prepared.plan.limits.latency.save(folder / LATENCIES)  # `bsszoo report` draws the candidates again
            check_trials(folder, held_trials(study, prepared.search))
            self._opened_now = _Opened(folder, address, study, read_result(folder), since)
            if _AS_FAST_DROPPED in prepared.plan.notes:
                self._save_notes(self._opened_now, "plan", [_AS_FAST_DROPPED])
            try:
                yield self._opened_now
            finally:
                self._opened_now = None

    @contextmanager
    def _lock_folder(self) -> Iterator[Path]:
        """The folder, locked. Machines that share a study may share a disk too: each has a folder of its own."""
        out, prepared = self.folder or self.options.search.out, self._prepared
        if out is not None or prepared.sharing.study is None:
            folder = Path("bsszoo-runs") / prepared.folder_name if out is None else Path(out)
            with run_folder(folder):
                yield folder
        else:
            name = f"{prepared.folder_name}_{plain_name(platform.node())}"
            with first_free_folder(Path("bsszoo-runs") / name) as folder:
                yield folder

    def _judge_controls(self, run: _Opened) -> list[float]:
        """Judge the controls as the candidates are, those without a stored score; the scores of all.

        A control that cannot be judged has no score but a note, and is tried again by the next process.
        """
        prepared, notes = self._prepared, []
        evaluator, plan = prepared.evaluator, prepared.plan
        shared_controls(run.study, run.folder)
        scores = scores_in(read_json(run.folder / CONTROLS))
        controls = []
        for role, code in controls_of(plan).items():
            cost = plan.space.cost(code)
            if str(code) in scores:
                continue
            if evaluator.compares(cost, plan.candidates, plan.budget.macs):
                controls.append((role, code))
            elif not evaluator.info.heuristic:
                times = cost.macs / plan.budget.macs
                notes.append(
                    f"The {role} network was not judged: with {times:.0f} times the budget's MACs it would take a good "
                    "part of the search's time."
                )
        results: Iterable[tuple[int, Callable[[], Any]]] = enumerate(partial(evaluator, code) for _, code in controls)
        if self._cluster is not None:
            values = [(code,) for _, code in controls]
            results = each_on_ray(self._cluster, evaluator, values, most=self.options.search.workers)
            for role, _ in controls:
                self._emit(Event("controls", f"Judging {_CONTROLS[role]}, a control ..."))
        for index, result in results:
            role, code = controls[index]
            if self._cluster is None:
                self._emit(Event("controls", f"Judging {_CONTROLS[role]}, a control ..."))
            try:
                scores[str(code)] = result().value
                write_json(run.folder / CONTROLS, scores)
            except (Exception, SystemExit) as error:
                notes.append(f"The {role} network has no score: {reason(error)}")
        self._save_notes(run, "controls", notes)
        if prepared.sharing.study is not None:
            share_controls(run.study, run.folder)
        return [scores[str(code)] for code in controls_of(plan).values() if str(code) in scores]

    # -- the result -------------------------------------------------------------------------------------------

    def _assembled(self, run: _Opened) -> CompressResult:
        prepared = self._prepared
        result = assemble(
            prepared.plan,
            prepared.evaluator,
            trial_rows(run.study, prepared.search),
            title=prepared.title,
            seed=self.options.search.seed,
            wanted=prepared.search.trials,
            scores=scores_in(read_json(run.folder / CONTROLS)),
            notes=notes_in(run.folder),
            training=training_facts(self._full_training, run.folder),
            seconds=run.seconds,
            versions=versions() | self._runtime_version,
            folder=run.folder,
            runtime=self.options.budget.runtime,
            train=self._training_command,
        )
        with understood(run.folder / RESULT, result_aside(run.folder)):
            return with_earlier(result, read_result(run.folder), prepared.plan)

    @property
    def _training_command(self) -> str | None:
        """The command that trains a search's codes; None where they are trained, or it cannot be written."""
        prepared, options = self._prepared, self.options
        trains = not prepared.evaluator.info.heuristic or options.training.has_data
        if trains or prepared.network.detector is not None or not isinstance(self.network, (str, Path, Code)):
            return None
        search = replace(options.search, evaluator=STRUCTURAL, retry_failed=False)
        if prepared.network.source is not None:
            # Its subnetworks inherit the weights, and are another search's codes.
            search = replace(search, evaluator=None, out=None)
        words = replace(options, search=search, training=replace(options.training, data=PICTURES)).words()
        return None if words is None else shlex.join(["bsszoo", "compress", str(self.network), *words])

    @cached_property
    def _runtime_version(self) -> dict[str, str]:
        runtime = runtime_of(self.options.budget.runtime)
        return {} if runtime.name == DEFAULT else {runtime.name: runtime.version}

    @cached_property
    def _full_training(self) -> FullTraining | None:
        # Once for all phases: whether there is a test split is read off the images' folder.
        finish = self._prepared.finish
        if finish is None:
            return self._prepared.judge.full_training()
        part = finish.recipe.model
        return FullTraining(finish.recipe, finish.data, part.num_classes, part.in_chans)

    def _noted(self, run: _Opened, result: CompressResult, phase: str, notes: Sequence[str]) -> CompressResult:
        """The result, written, with a phase's notes in place of its earlier ones."""
        before = notes_in(run.folder).get(phase, [])
        self._save_notes(run, phase, notes)
        others = tuple(note for note in result.notes if note not in before)
        return self._write(run, replace(result, notes=(*others, *notes)))

    def _save_notes(self, run: _Opened, phase: str, notes: Sequence[str]) -> None:
        stored = notes_in(run.folder)
        if stored.get(phase, []) != list(notes):
            write_json(run.folder / NOTES, {**stored, phase: list(notes)})

    def _write(self, run: _Opened, result: CompressResult) -> CompressResult:
        from bsszoo.report.page import write_report

        with understood(run.folder / RESULT, result_aside(run.folder)):
            earlier = read_result(run.folder) or {}
        as_written = replace(result, seconds=seconds_of(earlier))
        if is_written(run.folder, as_written):
            return as_written
        result = replace(result, seconds=round(run.seconds, 3))
        write_result(run.folder, result)
        if self._insight[0] != len(result.trials):
            self._insight = len(result.trials), insight_of_rows(self._prepared.plan.candidates, result.trials)
        write_report(result, run.folder / REPORT, self._insight[1])
        return result

    def _emit(self, event: Event) -> None:
        for callback in self.callbacks:
            callback(event if event.folder is not None else replace(event, folder=self.folder))


def compress(
    network: str | Path | Code | Detector | nn.Module,
    *,
    flops: str | float | None = None,
    params: str | float | None = None,
    data: str | Path | None = None,
    evaluator: str | Callable[..., Any] | Evaluator | None = None,
    trials: int | None = None,
    workers: int | None = None,
    out: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    evaluate: Callable[[Any], float] | None = None,
    fine_tune: Callable[..., Any] | None = None,
    test: Callable[[Any], float] | None = None,
    images: Any = None,
    **options: Any,
) -> CompressResult:
    """Make a network smaller, under a budget: all phases of ``Compression``.

    Every candidate meets the budget before anything is built. A run that was stopped, by Ctrl-C or by a kill, resumes
    when it is called again with the same options; ``trials`` may grow.

    Args:
        network: The network to compress, as for ``Compression``.
        flops: Most multiply-adds (the paper's FLOPs; half of what tools that count 2 x MACs report): ``"130M"``,
            ``"0.13G"``, ``130e6``, or ``"60%"`` of the network's. One of this, ``params`` and ``latency`` (of
            ``options``: milliseconds on this machine, or ``"60%"``) at least.
        params: Most parameters, likewise.
        data: Folder of images. A network with weights (a built module too) is then compressed with them; of others
            each code is trained.
        evaluator: ``"structural"``, ``"module:function"``, a function ``(code) -> float`` or ``(code, trial) -> float``
            (higher is better), or an ``Evaluator``; by default with ``data`` inherited weights, of a network without
            weights a training.
        trials: Codes to evaluate; by default 64, and 160 where subnetworks are judged by inherited weights.
        workers: Processes on this machine, each of which evaluates one code at a time; 1 by default. With ``ray`` (of
            ``options``) codes under way at once in a Ray cluster, by default as many as it holds.
        out: Folder of the run, by default ``bsszoo-runs/`` and the settings' name.
        callbacks: Called with each ``Event``, such as ``LogLines(print)``.
        evaluate, fine_tune: In place of ``data``, your own functions: ``evaluate(network) -> float``, higher is better,
            and ``fine_tune(network, share=..)``, which trains it for a share of the full length.
        test: As ``evaluate``, on images by which nothing is chosen.
        images: Training images as the network takes them, to which the layers of subnetworks are fitted: a tensor
            [n, c, h, w] or a loader. These four are described in ``bsszoo.evaluators.own.NetworkFunctions``.
        options: All others, described in ``bsszoo.options``.

    Raises:
        BudgetError, UnknownNameError, CodeError, SettingsError, RunError, StoppedError: As ``Compression.search``.

    Example:
        >>> result = compress("mobilenetv2", flops="130M", trials=4, batch=2, measure=False, out="small")
        >>> result.best.cost.macs <= 130_000_000
        True
    """
    job = Compression(
        network,
        flops=flops,
        params=params,
        data=data,
        evaluator=evaluator,
        trials=trials,
        workers=workers,
        out=out,
        callbacks=callbacks,
        evaluate=evaluate,
        fine_tune=fine_tune,
        test=test,
        images=images,
        **options,
    )
    return job.run()


def _functions(
    options: Options,
    evaluate: Callable[[Any], float] | None,
    fine_tune: Callable[..., Any] | None,
    test: Callable[[Any], float] | None,
    images: Any,
) -> NetworkFunctions | None:
    """The user's functions of a network, None without any; a ``SettingsError`` where they do not go together."""
    if evaluate is None and fine_tune is None:
        if test is not None or images is not None:
            raise SettingsError("test and images belong to evaluate and fine_tune, which were not given.")
        return None
    from bsszoo.evaluators.own import NetworkFunctions

    if options.training.has_data:
        raise SettingsError("evaluate and fine_tune take the place of data: give one of the two.")
    if options.search.evaluator is not None:
        raise SettingsError("evaluator judges codes, and evaluate their networks: give one of the two.")
    if options.search.ray is None and (options.search.workers or 1) > 1:
        raise SettingsError("evaluate and fine_tune are called in this process: workers is 1 with them, without ray.")
    return NetworkFunctions(evaluate, fine_tune, test, images)  # type: ignore[arg-type]  # it says what is missing


def _cost(network: Network) -> Any:
    head = None if network.detector is None else DetectorHead.of(network.detector)
    return network_cost(network.code, head)


def _folder_name(title: str, budget: ResolvedBudget, evaluator: Evaluator, settings: Mapping[str, Any]) -> str:
    """A readable name with a fingerprint of the settings, so that another budget starts another run."""
    words = [title[:40], human(budget.macs), evaluator.info.name.replace(":", "."), f"seed{settings['seed']}"]
    fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:6]
    return "_".join(plain_name(w) for w in (*words, fingerprint))


@contextmanager
def _storage_faults(folder: Path, storage: str | None) -> Iterator[None]:
    """Turn a full disk or a lost database into a ``RunError``; finished trials stay in the study."""
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
            "are saved; the same command resumes when there is room and the storage answers."
        ) from error

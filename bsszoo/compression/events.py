"""``Event``: a step of a compression, for progress bars, notebooks and logs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from bsszoo.compression.plan import Plan
from bsszoo.evaluators.base import EvaluatorInfo
from bsszoo.report.figures import both_macs, human
from bsszoo.study.result import ResolvedBudget, TrialRow

if TYPE_CHECKING:
    from bsszoo.train.callbacks import Start, TrainingState
    from bsszoo.train.checkpoint import Row

#: What a phase's steps are, where they are counted.
UNITS: Final = {
    "original": "updates",
    "latency": "blocks",
    "search": "trials",
    "measure": "networks",
    "confirm": "trainings",
    "quantise": "networks",
    "finish": "updates",
}
# Least time between two events of one training [s].
_INSIDE_SECONDS: Final = 0.5

Phase = Literal[
    "original", "latency", "plan", "controls", "search", "measure", "confirm", "export", "quantise", "finish"
]


@dataclass(frozen=True, slots=True)
class Event:
    """A step of a compression.

    ``text`` is a line or more for a log. ``done`` of ``total`` steps of the phase are finished (trials of ``search``,
    trainings of ``confirm``, updates of ``finish``); 0 of 0 where steps are not counted. ``trial`` has just finished,
    ``best`` is the best one so far. ``folder`` is the run's, once it is open. ``minor`` events are frequent: a log
    writes few of them. ``inside`` are the updates done and their total of the training that is under way, in events
    about that alone.
    """

    phase: Phase
    text: str
    done: int = 0
    total: int = 0
    trial: TrialRow | None = None
    best: TrialRow | None = None
    folder: Path | None = None
    minor: bool = False
    inside: tuple[int, int] | None = None


Callback = Callable[[Event], None]


def begun(network: str, budget: ResolvedBudget) -> Event:
    """The request was understood; candidates are drawn next, which takes long where few codes are feasible."""
    limits = [
        # Without a lower limit on them the multiply-adds are the network's own, and no budget.
        both_macs(budget.macs) if budget.min_macs or not (budget.params or budget.latency_ms) else "",
        f"params at most {human(budget.params)}" if budget.params else "",
        f"activations at most {human(budget.activations)}" if budget.activations else "",
        f"latency at most {budget.latency_ms:.4g} ms" if budget.latency_ms else "",
    ]
    text = ", ".join(limit for limit in limits if limit)
    return Event("plan", f"Compressing {network}\nBudget: {text}\nDrawing candidates ...")


def planned(plan: Plan, info: EvaluatorInfo, folder: Path, done: int, trials: int) -> Event:
    """The candidates are drawn; ``done`` of the ``trials`` asked for were finished by an earlier run."""
    macs = plan.candidates.macs
    assert macs is not None  # drawn from a space, which computes their costs
    earlier = (
        ""
        if not done
        else f" ({done} trials are finished already; {trials} were asked for, so none is left to do)"
        if done >= trials
        else f" (resuming after {done} finished trials)"
    )
    lines = [
        f"Candidates: {len(plan.candidates):,} codes within the limits, {human(int(macs.min()))} to "
        f"{human(int(macs.max()))} MACs, {plan.space.described}",
        *(
            [f"Fewer than the {trials} trials asked for: all of them will be evaluated"]
            if len(plan.candidates) < trials
            else []
        ),
        *(f"Cap: {cap}" for cap in plan.caps),
        *(f"Note: {note}" for note in plan.notes),
        f"Evaluator: {info.name}, {info.measures}",
        # A heuristic's stands beside the scores at the end.
        *([f"  {info.caution}"] if info.caution and not info.heuristic else []),
        f"Folder: {folder}{earlier}",
    ]
    return Event("plan", "\n".join(lines), folder=folder)


class SearchEvents:
    """The events of a search, with its count of trials and its best one."""

    def __init__(self, emit: Callback, done: Sequence[TrialRow], total: int) -> None:
        self._emit, self.done, self.total = emit, len(done), total
        self.best = max((t for t in done if t.score is not None), key=lambda t: t.score or 0.0, default=None)

    def started(self) -> None:
        """The first code is suggested next."""
        self._emit(Event("search", "", self.done, self.total, best=self.best, minor=True))

    def finished(self, trial: TrialRow) -> None:
        """One more trial is finished."""
        self.done += 1
        text, minor = self._best_so_far(), True
        if trial.state == "failed":
            text, minor = f"trial {trial.number} failed: {(trial.error or '').partition(chr(10))[0]}", False
        elif trial.score is not None and (self.best is None or trial.score > (self.best.score or 0.0)):
            self.best = trial
            text = self._best_so_far()
        self._emit(Event("search", text, self.done, self.total, trial, self.best, minor=minor))

    def waiting(self, trials: int) -> None:
        """No code is left to suggest; ``trials`` trials are still running on other machines."""
        word = "trial" if trials == 1 else "trials"
        self._emit(
            Event(
                "search",
                f"Waiting for {trials} {word} of other workers; their codes are evaluated here if they die ...",
                self.done,
                self.total,
                best=self.best,
            )
        )

    def _best_so_far(self) -> str:
        if self.best is None:
            return "best so far: none"
        return f"best so far: score {self.best.score:.3f} at {human(self.best.cost.macs)} MACs"


def confirming(result: str, done: int, trainings: int) -> Event:
    """``done`` of ``trainings`` fresh trainings are finished; ``result`` is the last one's, empty at the start."""
    already = f", {done} of them finished already" if done else ""
    text = (
        f"  {done}/{trainings} {result}"
        if result
        else f"Confirming: {trainings} fresh trainings of the best codes and of controls, measured on unseen "
        f"images{already} ..."
    )
    return Event("confirm", text, done, trainings)


class Inside:
    """Sends events on, and those of the trainings inside a phase: about two a second, and the last of each.

    ``updated`` hears of the updates of a training (``evaluators.base.listening``).
    """

    def __init__(self, emit: Callback, phase: Phase) -> None:
        self._emit, self._latest, self._last = emit, Event(phase, ""), 0.0

    def __call__(self, event: Event) -> None:
        """Send an event of the phase on."""
        self._latest = event
        self._emit(event)

    def updated(self, done: int, total: int) -> None:
        """``done`` of ``total`` updates of a training are done."""
        now = time.monotonic()
        if done < total and now - self._last < _INSIDE_SECONDS:
            return
        self._last = now
        text = f"training: {done:,} of {total:,} updates"
        self._emit(replace(self._latest, text=text, trial=None, minor=True, inside=(done, total)))


class TrainingEvents:
    """The events of a training in this process (a ``train.callbacks.TrainingCallback``); ``text`` says of which one."""

    def __init__(self, emit: Callback, phase: Phase, text: str) -> None:
        self._emit, self._phase = emit, phase
        self._done, self._total, self._ends, self._val = 0, 0, 0, 0
        emit(Event(phase, text))

    def started(self, start: Start) -> None:
        """Everything is checked and opened."""
        self._done, self._total, self._ends, self._val = start.resumed, start.total, len(start.ends), start.val
        resumed = f", resuming after {start.resumed:,} of them" if start.resumed else ""
        self._emit(
            Event(
                self._phase,
                f"{start.total:,} updates on {start.train:,} images, {start.val:,} to validate on{resumed}; "
                f"folder {start.folder}",
                start.resumed,
                start.total,
            )
        )

    def updated(self, state: TrainingState) -> None:
        """About once a second."""
        self._done = state.update
        text = f"update {state.update}/{self._total}: loss {state.loss:.4f}, {state.images_per_s:,.0f} images/s"
        self._emit(Event(self._phase, text, state.update, self._total, minor=True))

    def validating(self, images: int) -> None:
        """``images`` of the validation split are done."""
        text = f"validating: {images:,} of {self._val:,} images"
        self._emit(Event(self._phase, text, self._done, self._total, minor=True))

    def validated(self, row: Row) -> None:
        """An epoch is validated."""
        self._emit(Event(self._phase, row.text(self._ends), self._done, self._total))

    def note(self, text: str) -> None:
        """A note for the user."""
        self._emit(Event(self._phase, f"Note: {text}"))


class LogLines:
    """A callback that writes lines to a log: each event's text, of the frequent ones one in ``seconds``.

    Args:
        write: Takes a line, such as ``logging.getLogger("search").info`` or ``print``.
        seconds: Least time between two lines of frequent events [s]; a training inside a phase has a line after three
            times as long without any.
    """

    def __init__(self, write: Callable[[str], object], seconds: float = 10.0) -> None:
        self._write, self._seconds = write, seconds
        self._last = self._begun = self._said = time.monotonic()
        self._from = 0
        self._phase: Phase | None = None

    def __call__(self, event: Event) -> None:
        """Write the event, or leave it out."""
        now = time.monotonic()
        if event.inside is not None:
            # Steps come first: short trainings are as many as trials.
            if now - self._said >= 3 * self._seconds:
                self._say(f"{event.done}/{event.total} {UNITS.get(event.phase, 'steps')}, {event.text}")
            return
        if event.phase != self._phase:
            # The time left is that of this phase's steps in this process.
            self._phase, self._begun, self._from = event.phase, now, event.done
            self._last = now
        if event.minor:
            over = event.total and event.done >= event.total
            if not event.text or (now - self._last < self._seconds and not over):
                return
            self._last = now
        if event.minor and event.phase == "latency":
            self._say(f"{event.text}: {event.done}/{event.total}{self._left(event, now)}")
            return
        if event.minor and event.phase == "search":
            code = "" if event.best is None else f"  {event.best.code}"
            self._say(f"{event.done}/{event.total} trials, {event.text}{code}{self._left(event, now)}")
            return
        for line in event.text.splitlines():
            self._say(line)

    def _say(self, line: str) -> None:
        self._said = time.monotonic()
        self._write(line)

    def _left(self, event: Event, now: float) -> str:
        fresh = event.done - self._from
        if event.done >= event.total or not fresh:
            return ""
        return f", about {(now - self._begun) / fresh * (event.total - event.done):.0f} s left"

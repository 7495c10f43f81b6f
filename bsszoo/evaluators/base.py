"""What judges a code: ``Evaluator``, its ``Score``, the ``Trial`` it reports to, and functions as evaluators."""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import math
import os
import sys
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from bsszoo.codes.code import Code
from bsszoo.codes.cost import Cost
from bsszoo.errors import EvaluationError, UnknownNameError, close_matches
from bsszoo.models.resolve import Network
from bsszoo.spaces.candidate_set import CandidateSet
from bsszoo.spaces.limits import Caps
from bsszoo.spaces.space import Space


@dataclass(frozen=True, slots=True)
class EvaluatorInfo:
    """The evaluator of a search: its name on the command line, what the score measures, and a caution about it.

    ``heuristic``: the score is computed from the code alone, so nothing says that a better one is a better network.
    """

    name: str
    measures: str
    caution: str | None = None
    heuristic: bool = False


@dataclass(frozen=True, slots=True)
class Score:
    """``value``: higher is better, always finite; ``measures``: what it measures, as a phrase.

    ``repeats`` are the results that the value is the mean of, where there are several: their spread shows the noise.

    Raises:
        EvaluationError: The value is no finite number.
    """

    value: float
    measures: str = "score"
    repeats: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        value = self.value.item() if hasattr(self.value, "item") else self.value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise EvaluationError(f"A score is a number; the evaluator gave {value!r} ({type(value).__name__}).")
        if not math.isfinite(value):
            raise EvaluationError(f"A score is a finite number; the evaluator gave {value}.")
        object.__setattr__(self, "value", float(value))


class Trial(Protocol):
    """One evaluation of a code, as passed to its evaluator.

    An evaluator of several rungs reports a value at the end of each and asks whether to stop. A trial ends complete
    (``evaluate`` returned a score), failed (it raised) or pruned (it returned after ``should_stop()`` was True, or
    raised ``optuna.TrialPruned``): of a pruned trial only the reports are stored, never a final score.
    """

    @property
    def replicate(self) -> int:
        """Which evaluation of its code it is, from 0: trainings with other seeds are independent."""
        ...

    def report(self, value: float, rung: int) -> None:
        """Record the value, higher is better, at the end of a rung (0, 1, ..).

        Raises:
            EvaluationError: The value is no finite number, or the rung no whole number from 0.
        """
        ...

    def should_stop(self) -> bool:
        """Whether the last report is too low for the code to be worth its next rung."""
        ...


@dataclass
class Untracked:
    """A trial outside a study, such as a control's: nothing stops it, and ``reports`` are its values by rung."""

    reports: dict[int, float] = field(default_factory=dict)
    replicate: int = 0

    def report(self, value: float, rung: int) -> None:
        """Record the value at a rung."""
        value, rung = checked_report(value, rung)
        self.reports[rung] = value

    def should_stop(self) -> bool:
        """Never."""
        return False


_LISTENER: ContextVar[Callable[[int, int], None] | None] = ContextVar("listener", default=None)


@contextmanager
def listening(hear: Callable[[int, int], None]) -> Iterator[None]:
    """Call ``hear`` with the updates done and their total of each training that evaluators run in this thread here."""
    token = _LISTENER.set(hear)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def tell(done: int, total: int) -> None:
    """Say how far the training of a code is, to whoever listens."""
    hear = _LISTENER.get()
    if hear is not None:
        hear(done, total)


def checked_report(value: float, rung: int) -> tuple[float, int]:
    """A report as plain numbers; ``EvaluationError`` where it is none."""
    if isinstance(rung, bool) or not isinstance(rung, int) or rung < 0:
        raise EvaluationError(f"A rung is a whole number from 0; the evaluator gave {rung!r}.")
    return Score(value).value, rung


class Evaluator(ABC):
    """What judges codes. A subclass has ``info`` and ``evaluate``; the rest is what searches ask it.

    A plain function of a code does as well (``FunctionEvaluator``).
    """

    #: Codes that a search evaluates, where no number is set.
    trials: ClassVar[int] = 64
    #: The share of a search's trials, at most, that evaluate a code again, where none is set.
    replicates: ClassVar[float] = 0.0
    #: Codes at each rung, the first ones, that go on to the next whatever they reported: they show what a rung tells.
    pilots: ClassVar[int] = 0
    #: Codes around the uniformly rescaled network that a search begins with.
    around: ClassVar[int] = 0
    #: Whether a score costs next to nothing and needs no data: a report then computes those it lacks.
    free: ClassVar[bool] = False

    @property
    def writes(self) -> tuple[Path, ...]:
        """Folders that all processes which evaluate codes have to share."""
        return ()

    @property
    def reads(self) -> tuple[Path, ...]:
        """Files and folders that have to be there wherever codes are evaluated."""
        return ()

    @property
    @abstractmethod
    def info(self) -> EvaluatorInfo:
        """What the scores are, for the screen and the report."""

    @property
    def caps(self) -> Caps:
        """How far candidates may go from the uniformly rescaled network, where no caps are set."""
        return Caps()

    @abstractmethod
    def evaluate(self, code: Code, trial: Trial) -> Score:
        """The score of a code, higher is better; any exception is a failed trial."""

    def __call__(self, code: Code) -> Score:
        """The score of a code outside a study: all rungs, whatever their values."""
        return self.evaluate(code, Untracked())

    def over(self, space: Space, candidates: CandidateSet) -> Evaluator:
        """The evaluator of a search among candidates, such as one whose scores are relative to them."""
        return self

    def space(self, network: Network) -> Space | None:
        """The space that is searched; None for the grid of the network's family."""
        return None

    def prepare(self, note: Callable[[str], None]) -> None:  # noqa: B027  nothing to prepare is the usual case
        """Make what all trials share; called by a run before its first trial, with what to tell the user.

        Raises:
            SettingsError: A search would be in vain.
        """

    def estimate(self, trials: int, finalists: int, trainings: int, code: Code) -> str | None:
        """How long a search will take, as a sentence; None where that is not known before it has begun.

        Args:
            trials: Codes to evaluate.
            finalists, trainings: Networks that are trained again at the end, and how often each.
            code: Of about the candidates' cost.
        """
        return None

    def searched(self, network: Network) -> Network:
        """The network as its costs are counted, such as a detector with the classes of the images."""
        return network

    def compares(self, cost: Cost, candidates: CandidateSet, most_macs: int) -> bool:
        """Whether the score of a control of that cost can be compared with the candidates'."""
        return True

    def too_short(self, controls: Sequence[float]) -> str | None:
        """That codes cannot be judged so, where the scores of the controls say it; else None."""
        return None

    def doubt(self, best: float) -> str | None:
        """A sentence where the best score of a search may be luck alone; else None."""
        return None

    def full_training(self) -> FullTraining | None:
        """The training in full of the best code, where the evaluator trains codes."""
        return None


@dataclass(frozen=True, slots=True)
class FullTraining:
    """A recipe and its images, with the classes and channels of a network for them."""

    recipe: Any
    data: str | None
    num_classes: int
    in_chans: int


class FunctionEvaluator(Evaluator):
    """A user's function ``(code) -> float`` (or ``-> Score``) as an ``Evaluator``.

    A function with a parameter ``trial``, ``(code, trial) -> float``, reports its rungs to it: see ``Trial``.

    Args:
        function: Called with each code; higher is better.
        name: Displayed on screen; by default the function's ``module:name``, or the name in an object's ``info``.
    """

    def __init__(self, function: Callable[..., Any], *, name: str | None = None) -> None:
        self.function = function
        default = f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', type(function).__name__)}"
        summary = (getattr(function, "__doc__", None) or "").strip().split("\n")[0]
        about = getattr(function, "info", None)
        self._info = (
            about
            if isinstance(about, EvaluatorInfo)
            else EvaluatorInfo(name or default, summary or f"value of {name or default}")
        )
        try:
            self._takes_trial = "trial" in inspect.signature(function).parameters
        except (TypeError, ValueError):  # one that is built in
            self._takes_trial = False

    @property
    def info(self) -> EvaluatorInfo:
        """The function's name and the first line of its docstring."""
        return self._info

    def evaluate(self, code: Code, trial: Trial) -> Score:
        """The function's value at a code."""
        value = self.function(code, trial=trial) if self._takes_trial else self.function(code)
        return value if isinstance(value, Score) else Score(value, self._info.measures)


def as_evaluator(judge: object, *, name: str | None = None) -> Evaluator:
    """An evaluator as it is, or a function of a code as one; ``EvaluationError`` for anything else."""
    if isinstance(judge, type) or inspect.iscoroutinefunction(judge):
        kind = "a class" if isinstance(judge, type) else "a coroutine function"
        raise EvaluationError(f"An evaluator is a function of a code or an object; {name or judge!r} is {kind}.")
    if isinstance(judge, Evaluator):
        return judge
    if not callable(judge):
        raise EvaluationError(f"An evaluator is a function of a code; {name or 'evaluator'} is {judge!r}.")
    return FunctionEvaluator(judge, name=name)


def digest(evaluator: Evaluator) -> str:
    """A fingerprint (SHA-256) of the code that an evaluator runs, by which a change is noticed when a run is resumed.

    Of the function, or the object's class, and of its whole file, comments aside; not of other modules
    that it imports. Empty where there is no source.
    """
    return source_digest(evaluator.function if isinstance(evaluator, FunctionEvaluator) else type(evaluator))


def source_digest(judge: Any) -> str:
    """As ``digest``, of a function, a class or an object."""
    judge = judge if inspect.isroutine(judge) or isinstance(judge, type) else type(judge)
    text = ""
    for part in (inspect.getmodule(judge), judge):
        try:
            source = textwrap.dedent(inspect.getsource(part)) if part is not None else ""
        except (OSError, TypeError):
            continue
        try:
            text += ast.dump(ast.parse(source))
        except SyntaxError:  # a lambda in the middle of a line
            text += source
    if not text:
        return ""
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def load_function(spec: str, what: str, form: str) -> Any:
    """What ``module:function`` names; ``what`` and ``form`` are its role and its form in messages.

    Raises:
        UnknownNameError: There is no such module or function; the text says which, with close matches.
        EvaluationError: The module raised or exited while it was imported.
    """
    module_name, _, function_name = spec.partition(":")
    if not module_name or not function_name or not all(p.isidentifier() for p in module_name.split(".")):
        raise UnknownNameError(f"The {what} is {form}, the module as in an import; got {spec!r}.")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, os.fspath(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            hint = " Leave out '.py'." if module_name.endswith(".py") else ""
            raise UnknownNameError(
                f"There is no module {module_name!r} in {Path.cwd()} or among the installed "
                f"packages ({what} {spec!r}).{hint}"
            ) from None
        raise EvaluationError(f"The module of the {what} {spec!r} cannot be imported: {error}") from error
    except SystemExit as error:
        raise EvaluationError(
            f"The module of the {what} {spec!r} exits when it is imported; put what it does as a "
            "script under `if __name__ == '__main__':`."
        ) from error
    except Exception as error:
        raise EvaluationError(
            f"The module of the {what} {spec!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    function: Any = module
    for part in function_name.split("."):
        if not hasattr(function, part):
            names = [n for n in vars(module) if callable(vars(module)[n]) and not n.startswith("_")]
            raise UnknownNameError(
                f"The module {module_name!r} has no {function_name!r}."
                + (close_matches(function_name, names) if names else "")
            )
        function = getattr(function, part)
    return function

"""What judges a code: the ``Evaluator`` protocol, its ``Score``, and a user's own function wrapped as one."""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import math
import os
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from bsszoo.codes.code import Code
from bsszoo.errors import EvaluationError, UnknownNameError, close_matches


@dataclass(frozen=True, slots=True)
class EvaluatorInfo:
    """What judged the codes: its name as given on the command line, what the score is, and what it is not."""

    name: str
    measures: str
    caution: str | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """``value``: higher is better, always finite; ``measures``: what it is, in words.

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


@runtime_checkable
class Evaluator(Protocol):
    """Anything that judges a code. A plain function ``(Code) -> float`` becomes one by ``FunctionEvaluator``."""

    @property
    def info(self) -> EvaluatorInfo:
        """What the scores are, for the screen and the report."""
        ...

    def __call__(self, code: Code) -> Score:
        """The score of a code; any exception is a failed trial."""
        ...


class FunctionEvaluator:
    """A user's function ``(Code) -> float`` (or ``-> Score``) as an ``Evaluator``.

    Args:
        function: Called with each code; higher is better.
        name: Shown on screen; by default the function's own ``module:name``.
    """

    def __init__(self, function: Callable[[Code], Any], *, name: str | None = None) -> None:
        self.function = function
        own = f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', type(function).__name__)}"
        summary = (getattr(function, "__doc__", None) or "").strip().split("\n")[0]
        self._info = EvaluatorInfo(name or own, summary or f"value of {name or own}")

    @property
    def info(self) -> EvaluatorInfo:
        """The function's name and the first line of its docstring."""
        return self._info

    def __call__(self, code: Code) -> Score:
        """The function's value at a code."""
        value = self.function(code)
        return value if isinstance(value, Score) else Score(value, self._info.measures)


def as_evaluator(judge: object, *, name: str | None = None) -> Evaluator:
    """An evaluator as it is, or a function of a code as one; ``EvaluationError`` for anything else."""
    if isinstance(judge, type) or inspect.iscoroutinefunction(judge):
        kind = "a class" if isinstance(judge, type) else "a coroutine function"
        raise EvaluationError(f"An evaluator is a function of a code or an object; {name or judge!r} is {kind}.")
    if isinstance(judge, Evaluator):
        return judge
    if not callable(judge):
        raise EvaluationError(f"An evaluator is a function of a code; {name or 'given'} is {judge!r}.")
    return FunctionEvaluator(judge, name=name)


def digest(evaluator: Evaluator) -> str:
    """A mark of the code that an evaluator runs, so that a changed one is noticed when a run is resumed.

    Of the function, or the object's class, and of the whole file it stands in, comments aside; not of other modules
    that it imports. Empty where there is no source.
    """
    judge = evaluator.function if isinstance(evaluator, FunctionEvaluator) else type(evaluator)
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


def load_evaluator(spec: str) -> Evaluator:
    """The evaluator that ``module:function`` names; the working directory is searched first, as ``python -m`` does.

    Raises:
        UnknownNameError: There is no such module or function; the text says which, with close matches.
        EvaluationError: The module raised or exited while it was imported, or the name is no function.
    """
    return as_evaluator(load_function(spec, "evaluator", "'structural' or MODULE:FUNCTION"), name=spec)


def load_function(spec: str, what: str, form: str) -> Any:
    """What ``module:function`` names; ``what`` and ``form`` say in messages what it is for and how it is written.

    Raises:
        UnknownNameError: There is no such module or function; the text says which, with close matches.
        EvaluationError: The module raised or exited while it was imported.
    """
    module_name, _, function_name = spec.partition(":")
    if not module_name or not function_name or not all(p.isidentifier() for p in module_name.split(".")):
        raise UnknownNameError(f"The {what} is {form}, the module as in an import; given was {spec!r}.")
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

"""The source of a push: a finished training, the best code's or recommended network's of a search, or a weights file.

Its records are read value by value with their types checked, and published without the paths of this machine.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import yaml
from yaml import YAMLError

from bsszoo.codes.code import Code
from bsszoo.errors import BssZooError, SettingsError, WeightsError
from bsszoo.models.hub_files import WEIGHTS_FILE
from bsszoo.models.names import resolve_code
from bsszoo.models.resolve import resolve
from bsszoo.models.saved_config import code_in, same_network
from bsszoo.models.weights import check_recorded
from bsszoo.texts import inner_path, one_line, parse_json, parse_yaml
from bsszoo.train.checkpoint import METRICS, RECIPE, SUMMARY

CONFIG, RESULT, TRIALS = "config.json", "result.json", "trials.csv"
RECOMMENDED: Final = "recommended"
#: Names in a repository of files of a run.
PUBLISHED: Final = {SUMMARY: "training.json", RESULT: "search.json", TRIALS: "search_trials.csv"}
# The most bytes of a file that is read as text; the trials of a long search are some megabytes.
_MOST_BYTES: Final = 1 << 26
_FORMS: Final = (
    "a folder of `bsszoo train`, a folder of `bsszoo compress --finish`, or a weights file (with --code "
    "unless a config.json lies beside it)"
)

# A path from the root of a disk with a folder in it; not a part of an address (https://..) or of a longer word.
_PATH: Final = re.compile(
    r"(?<![\w/.\\])(?!//)(?:~|[A-Za-z]:)?[/\\]{1,2}(?:[^\s/\\:'\"]+[/\\])+(?P<last>[^\s/\\:'\",;)]*)"
)
# A text that is a path as a whole, which may have blanks in it.
_WHOLE: Final = re.compile(r"(?:~|\.{1,2}|[A-Za-z]:)?[/\\].*|\.\.?", re.DOTALL)
# Values that are paths wherever they begin, unless they name a repository on the Hub or a tag.
_PATHS: Final = ("pretrained", "inherit_weights", "teacher_weights", "folder")
# Columns of a failed evaluation's message and traceback.
_PRIVATE: Final = ("error", "trace")


@dataclass(frozen=True, slots=True)
class Search:
    """The search of a code: ``result.json`` as it was written, and ``trials.csv`` as text."""

    result: Mapping[str, Any]
    trials: str


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained network on this machine, and its records.

    ``weights`` is the file; ``config`` what its ``config.json`` holds, empty without one; ``summary``, ``recipe`` and
    ``metrics`` are those of ``bsszoo train`` (the last two as text), None for weights that something else trained.
    """

    code: Code
    weights: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] | None = None
    recipe: str | None = None
    metrics: str | None = None
    search: Search | None = None


def find_trained(source: str | Path, *, code: str | Code | None = None, search: str | Path | None = None) -> Trained:
    """The trained network of a run's folder, a training's folder or a weights file.

    Args:
        source: The folder or the file.
        code: The network of a weights file: a name of the zoo or a code; elsewhere it must agree with the folder's.
        search: The folder of the ``bsszoo compress`` run of the code; by default the one that the training is in, if
            any.

    Raises:
        SettingsError: There is nothing to publish: the text names what is missing and the command that makes it.
        WeightsError: The ``config.json`` is broken.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise SettingsError(f"There is no {str(source)!r}: give {_FORMS}.")
    run = _run(Path(search).expanduser()) if search is not None else None
    if path.is_dir() and (path / RESULT).is_file():
        parent = _run(path)
        path, run = _finished(path, parent.result), run or parent
    if run is None and path.is_dir():
        published = path / PUBLISHED[RESULT]
        if published.is_file():
            run = _run(path, published.name, PUBLISHED[TRIALS])
        elif (path.parent / RESULT).is_file():
            run = _run(path.parent)
    named = None if code is None else resolve_code(code)
    trained = _folder(path, named) if path.is_dir() else _file(path, named)
    if named is not None and not same_network(named, trained.code):
        raise SettingsError(f"{path} holds {trained.code}, and --code names {named}.")
    if run is not None:
        with reading(RESULT):
            codes = [Code.parse(n["code"]) for n in run.result["networks"]]
        if not any(same_network(trained.code, one) for one in codes):
            raise SettingsError(
                f"{trained.code} is none of the search's networks. Leave out --search, or name the search of this code."
            )
        trained = replace(trained, search=run)
    return trained


def _run(folder: Path, result_name: str = RESULT, trials_name: str = TRIALS) -> Search:
    result = _json(folder / result_name)
    if result is None or "networks" not in result:
        raise SettingsError(f"{folder} holds no finished search: there is no {RESULT} of `bsszoo compress` in it.")
    trials = folder / trials_name
    return Search(result, _text(trials) or "")


def _finished(run: Path, result: Mapping[str, Any]) -> Path:
    """The folder of the best code's training in full, else of the recommended network's training."""
    with reading(str(run / RESULT)):
        finished, code = result.get("finished"), Code.parse(result["best"]["code"])
        folder = inner_path(text_in(finished, "folder"), "finished.folder") if finished else Path(RECOMMENDED)
        trained = finished or (result.get("recommended") or {}).get("weights")
    if not trained:
        raise SettingsError(
            f"{run} holds a search and no weights to publish: its candidates were judged, not trained in full. Run the "
            f"same `bsszoo compress` with --finish paper (and --data), or `bsszoo train paper:{code} --data DIR --out "
            f"DIR2`, then: bsszoo push DIR2 ORG/NAME --search {run}"
        )
    return run / folder


def _folder(folder: Path, named: Code | None) -> Trained:
    weights, config = folder / WEIGHTS_FILE, folder / CONFIG
    # A pulled folder has these under their names in a repository.
    recipe, summary = _text(folder / RECIPE), _json(folder / SUMMARY) or _json(folder / PUBLISHED[SUMMARY])
    if not weights.is_file():
        if recipe is not None:
            raise SettingsError(
                f"The training in {folder} is not finished: there is no {WEIGHTS_FILE} yet. "
                "Run the same `bsszoo train` again; it resumes."
            )
        raise SettingsError(f"There is nothing to publish in {str(folder)!r}: give {_FORMS}.")
    if recipe is not None and summary is None:
        raise SettingsError(
            f"The training in {folder} is not finished: there is no {SUMMARY} yet. Run the "
            "same `bsszoo train` again; it resumes."
        )
    if not config.is_file():
        if named is None:
            raise SettingsError(f"{folder} has no {CONFIG}, which names the network: give its code with --code.")
        return Trained(named, weights, {}, summary, recipe, _text(folder / METRICS))
    data = _json(config)
    check_recorded(weights, config, str(folder))
    return Trained(code_in(config, str(folder)), weights, data or {}, summary, recipe, _text(folder / METRICS))


def _file(path: Path, named: Code | None) -> Trained:
    beside = path.parent / CONFIG
    code = code_in(beside, str(path)) if beside.is_file() else None
    if code is not None and (named is None or same_network(code, named)):
        if path.name == WEIGHTS_FILE:
            return _folder(path.parent, named)
        # Other weights of that training, such as its best epoch's: its input and labels apply, its figures do not.
        return Trained(code, path, _json(beside) or {})
    return Trained(resolve(path).classifier if named is None else named, path)


def _text(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it has {path.stat().st_size:,} bytes, and at most {_MOST_BYTES:,} are read")
        return path.read_text(encoding="utf-8")
    except (ValueError, OSError) as error:
        raise WeightsError(f"{path} cannot be read: {one_line(error)}.") from None


def _json(path: Path) -> dict[str, Any] | None:
    text = _text(path)
    if text is None:
        return None
    try:
        data = parse_json(text)
    except ValueError as error:
        raise WeightsError(f"{path} is broken: {one_line(error)}.") from None
    if not isinstance(data, dict):
        raise WeightsError(f"{path} is broken: it holds no object.")
    return data


# -- its records, value by value ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Measured:
    """One measurement: top-1 and top-5 accuracy [%] on a split of a data set."""

    dataset: str
    split: str
    top1: float
    top5: float
    images: int

    @property
    def held_out(self) -> bool:
        """Whether the images were held out of the training images."""
        return "held out" in self.split

    @property
    def dataset_id(self) -> str:
        """The data set as the Hub's cards name it."""
        kind, slash, name = self.dataset.partition("/")
        return name if slash and kind in ("torch", "hfds", "hfids", "tfds", "wds") else self.dataset


def measured_of(summary: Mapping[str, Any] | None) -> tuple[Measured, ...]:
    """The measurements in a training's summary: on its validation images, and on its test split if any.

    Raises:
        ValueError: It lacks an entry, or has an invalid one; the text names it.
    """
    if summary is None:
        return ()
    measured = [
        Measured(
            text_in(summary, "dataset"),
            text_in(summary, "validated_on"),
            number_in(summary, "top1", most=100),
            number_in(summary, "top5", most=100),
            count_in(summary, "val_pictures"),
        )
    ]
    if summary.get("test_top1") is not None:
        measured.append(
            Measured(
                text_in(summary, "dataset"),
                text_in(summary, "tested_on"),
                number_in(summary, "test_top1", most=100),
                number_in(summary, "test_top5", most=100),
                count_in(summary, "test_pictures"),
            )
        )
    return tuple(measured)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """A ``WeightsError`` that names the file, where a record of a run is invalid."""
    try:
        yield
    except BssZooError as error:
        if isinstance(error, (WeightsError, SettingsError)):
            raise
        raise WeightsError(_broken(name, error)) from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, YAMLError, csv.Error) as error:
        raise WeightsError(_broken(name, error)) from error


def _broken(name: str, error: Exception) -> str:
    message = f"there is no {error}" if type(error) is KeyError else str(error) or type(error).__name__
    return (
        f"{name} is broken, or of another version of bsszoo ({one_line(message)}). Remove it to publish without it, or "
        "let the command that wrote it write it again."
    )


def text_in(data: Any, *keys: str) -> str:
    """The text at the end of these keys; a ``ValueError`` for anything else."""
    return str(_value(data, keys, str, "a text"))


def number_in(data: Any, *keys: str, most: float = 1e30) -> float:
    """The finite number, from 0, at the end of these keys; a ``ValueError`` for anything else."""
    value = _value(data, keys, (int, float), "a number")
    if not 0 <= value <= most:  # NaN is in no range
        raise ValueError(f"{'.'.join(keys)} is {value!r}, and a number from 0 to {most:g} is needed")
    return float(value)


def count_in(data: Any, *keys: str) -> int:
    """The whole number, from 0, at the end of these keys; a ``ValueError`` for anything else."""
    value = _value(data, keys, int, "a whole number")
    if value < 0:
        raise ValueError(f"{'.'.join(keys)} is {value!r}, and a whole number from 0 is needed")
    return int(value)


def _value(data: Any, keys: Sequence[str], kind: type | tuple[type, ...], wanted: str) -> Any:
    for depth, key in enumerate(keys):
        if not isinstance(data, Mapping):
            raise ValueError(f"{'.'.join(keys[:depth]) or 'it'} is no object")
        if key not in data:
            raise ValueError(f"it has no {'.'.join(keys[: depth + 1])}")
        data = data[key]
    if not isinstance(data, kind) or isinstance(data, bool):
        raise ValueError(f"{'.'.join(keys)} is {one_line(repr(data), 60)}, and {wanted} is needed")
    return data


# -- what of them may be published ---------------------------------------------------------------------------


def without_paths(value: Any) -> Any:
    """The same value with each absolute path in its texts shortened to the last part.

    Example:
        >>> without_paths({"from": "local-dir:/home/me/runs/first", "see": "https://a.org/b/c"})
        {'from': 'local-dir:first', 'see': 'https://a.org/b/c'}
    """
    if isinstance(value, str):
        head, colon, rest = value.partition(":")
        if head in ("local-dir", "file") and colon:
            return f"{head}:{_last(rest)}"
        if _WHOLE.fullmatch(value):
            return _last(value)
        return _PATH.sub(lambda match: match["last"] or "(a folder)", value)
    if isinstance(value, dict):
        named = {key for key, one in value.items() if key in _PATHS and isinstance(one, str) and ":" not in one[2:]}
        return {key: _last(one) if key in named else without_paths(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_paths(one) for one in value]
    return value


def _last(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1] or "(a folder)"


def portable_recipe(text: str) -> str:
    """A recipe's YAML without paths of this machine; as it is where it has none."""
    data = parse_yaml(text)
    portable = without_paths(data)
    return text if portable == data else yaml.safe_dump(portable, sort_keys=False, width=110)


def portable_trials(text: str) -> str:
    """``trials.csv`` without the texts of failed evaluations, which hold paths and source lines."""
    rows = list(csv.DictReader(io.StringIO(text)))
    if not rows:
        return ""
    out = io.StringIO()
    names = [name for name in rows[0] if name not in _PRIVATE]
    table = csv.DictWriter(out, names, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return out.getvalue()

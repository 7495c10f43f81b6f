"""What is to be published: a finished training, the best code's training of a search, or a weights file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from bsszoo.codes.code import Code
from bsszoo.errors import SettingsError, WeightsError
from bsszoo.hub.figures import reading, text_in
from bsszoo.models.hub_files import WEIGHTS_FILE
from bsszoo.models.names import resolve_code
from bsszoo.models.resolve import resolve
from bsszoo.models.saved_config import code_in, same_network
from bsszoo.models.weights import check_recorded
from bsszoo.texts import inner_path, one_line, parse_json
from bsszoo.train.checkpoint import METRICS, RECIPE, SUMMARY

CONFIG, RESULT, TRIALS = "config.json", "result.json", "trials.csv"
#: How files of a run are called in a repository.
PUBLISHED: Final = {SUMMARY: "training.json", RESULT: "search.json", TRIALS: "search_trials.csv"}
# The most bytes of a file that is read as text; the trials of a long search are some megabytes.
_MOST_BYTES: Final = 1 << 26
_FORMS: Final = (
    "a folder of `bsszoo train`, a folder of `bsszoo compress --finish`, or a weights file (with --code "
    "unless a config.json lies beside it)"
)


@dataclass(frozen=True, slots=True)
class Search:
    """The search that found a code: ``result.json`` as it was written, and ``trials.csv`` as text."""

    result: Mapping[str, Any]
    trials: str


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained network as it lies on this machine, and what is known of it.

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
    """What a run's folder, a training's folder or a weights file holds.

    Args:
        source: The folder or the file.
        code: The network of a weights file: a name of the zoo or a code; elsewhere it must agree with what is there.
        search: The folder of the ``bsszoo compress`` run that found the code; found by itself when the training lies
            in it.

    Raises:
        SettingsError: There is nothing to publish: the text says what is missing and which command makes it.
        WeightsError: The ``config.json`` is broken.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise SettingsError(f"There is no {str(source)!r}: give {_FORMS}.")
    run = _run(Path(search).expanduser()) if search is not None else None
    if path.is_dir() and (path / RESULT).is_file():
        own = _run(path)
        path, run = _finished(path, own.result), run or own
    if run is None and path.is_dir():
        published = path / PUBLISHED[RESULT]
        if published.is_file():
            run = _run(path, published.name, PUBLISHED[TRIALS])
        elif (path.parent / RESULT).is_file():
            run = _run(path.parent)
    given = None if code is None else resolve_code(code)
    found = _folder(path, given) if path.is_dir() else _file(path, given)
    if given is not None and not same_network(given, found.code):
        raise SettingsError(f"{path} holds {found.code}, and --code names {given}.")
    if run is not None:
        with reading(RESULT):
            known = [Code.parse(n["code"]) for n in run.result["networks"]]
        if not any(same_network(found.code, one) for one in known):
            raise SettingsError(
                f"The search does not know {found.code}: it is none of its networks. Leave --search "
                "away, or name the search that found it."
            )
        found = replace(found, search=run)
    return found


def _run(folder: Path, result_name: str = RESULT, trials_name: str = TRIALS) -> Search:
    result = _json(folder / result_name)
    if result is None or "networks" not in result:
        raise SettingsError(f"{folder} holds no finished search: there is no {RESULT} of `bsszoo compress` in it.")
    trials = folder / trials_name
    return Search(result, _text(trials) or "")


def _finished(run: Path, result: Mapping[str, Any]) -> Path:
    """The folder of the best code's training in full."""
    with reading(str(run / RESULT)):
        finished, code = result.get("finished"), Code.parse(result["best"]["code"])
        folder = inner_path(text_in(finished, "folder"), "finished.folder") if finished else Path()
    if not finished:
        raise SettingsError(
            f"{run} holds a search and no weights to publish: its candidates were judged, not trained in full. Run the "
            f"same `bsszoo compress` with --finish paper (and --data), or `bsszoo train paper:{code} --data DIR --out "
            f"DIR2`, then: bsszoo push DIR2 ORG/NAME --search {run}"
        )
    return run / folder


def _folder(folder: Path, given: Code | None) -> Trained:
    weights, config = folder / WEIGHTS_FILE, folder / CONFIG
    # In a pulled folder the same stand under the names that they have in a repository.
    recipe, summary = _text(folder / RECIPE), _json(folder / SUMMARY) or _json(folder / PUBLISHED[SUMMARY])
    if not weights.is_file():
        if recipe is not None:
            raise SettingsError(
                f"The training in {folder} has not come to its end: there is no {WEIGHTS_FILE} yet. "
                "Run the same `bsszoo train` again; it goes on where it was."
            )
        raise SettingsError(f"There is nothing to publish in {str(folder)!r}: give {_FORMS}.")
    if recipe is not None and summary is None:
        raise SettingsError(
            f"The training in {folder} has not come to its end: there is no {SUMMARY} yet. Run the "
            "same `bsszoo train` again; it goes on where it was."
        )
    if not config.is_file():
        if given is None:
            raise SettingsError(f"{folder} has no {CONFIG}, which says what network it is: name it with --code.")
        return Trained(given, weights, {}, summary, recipe, _text(folder / METRICS))
    data = _json(config)
    check_recorded(weights, config, str(folder))
    return Trained(code_in(config, str(folder)), weights, data or {}, summary, recipe, _text(folder / METRICS))


def _file(path: Path, given: Code | None) -> Trained:
    beside = path.parent / CONFIG
    code = code_in(beside, str(path)) if beside.is_file() else None
    if code is not None and (given is None or same_network(code, given)):
        if path.name == WEIGHTS_FILE:
            return _folder(path.parent, given)
        # Other weights of that training, such as its best epoch's: its input and labels hold for them, its figures not.
        return Trained(code, path, _json(beside) or {})
    return Trained(resolve(path).classifier if given is None else given, path)


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

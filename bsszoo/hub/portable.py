"""What of a run's files may be shown to everybody: the figures, without the paths and texts of one machine."""

from __future__ import annotations

import csv
import io
import re
from typing import Any, Final

import yaml

from bsszoo.texts import parse_yaml

# A path from the root of a disk with a folder in it; not a part of an address (https://..) or of a longer word.
_PATH: Final = re.compile(
    r"(?<![\w/.\\])(?!//)(?:~|[A-Za-z]:)?[/\\]{1,2}(?:[^\s/\\:'\"]+[/\\])+(?P<last>[^\s/\\:'\",;)]*)"
)
# A text that is a path as a whole, which may have blanks in it.
_WHOLE: Final = re.compile(r"(?:~|\.{1,2}|[A-Za-z]:)?[/\\].*|\.\.?", re.DOTALL)
# Values that are paths wherever they begin, unless they name a place on the Hub or a tag.
_PATHS: Final = ("pretrained", "teacher_weights", "folder")
# Columns that hold what a failed evaluation said.
_PRIVATE: Final = ("error", "trace")


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
        return _PATH.sub(lambda found: found["last"] or "(a folder)", value)
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
    shown = without_paths(data)
    return text if shown == data else yaml.safe_dump(shown, sort_keys=False, width=110)


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

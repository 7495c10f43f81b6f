"""The accuracies that were measured of a trained network, and the single values of a run's records, by their kinds."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from yaml import YAMLError

from bsszoo.errors import BssZooError, SettingsError, WeightsError
from bsszoo.texts import one_line


@dataclass(frozen=True, slots=True)
class Measured:
    """One measurement: top-1 and top-5 accuracy [%] on a split of a data set."""

    dataset: str
    split: str
    top1: float
    top5: float
    pictures: int

    @property
    def dataset_id(self) -> str:
        """The data set as the Hub's cards name it."""
        kind, slash, name = self.dataset.partition("/")
        return name if slash and kind in ("torch", "hfds", "hfids", "tfds", "wds") else self.dataset


def measured_of(summary: Mapping[str, Any] | None) -> tuple[Measured, ...]:
    """What the summary of a training says was measured: on its validation pictures, and on its test split if any.

    Raises:
        ValueError: It lacks an entry, or has one that no training writes; the text names it.
    """
    if summary is None:
        return ()
    found = [
        Measured(
            text_in(summary, "dataset"),
            text_in(summary, "validated_on"),
            number_in(summary, "top1", most=100),
            number_in(summary, "top5", most=100),
            count_in(summary, "val_pictures"),
        )
    ]
    if summary.get("test_top1") is not None:
        found.append(
            Measured(
                text_in(summary, "dataset"),
                text_in(summary, "tested_on"),
                number_in(summary, "test_top1", most=100),
                number_in(summary, "test_top5", most=100),
                count_in(summary, "test_pictures"),
            )
        )
    return tuple(found)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """A ``WeightsError`` that names the file, where a record of a run is not what a run writes."""
    try:
        yield
    except BssZooError as error:
        if isinstance(error, (WeightsError, SettingsError)):
            raise
        raise WeightsError(_broken(name, error)) from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, YAMLError, csv.Error) as error:
        raise WeightsError(_broken(name, error)) from error


def _broken(name: str, error: Exception) -> str:
    said = f"there is no {error}" if type(error) is KeyError else str(error) or type(error).__name__
    return (
        f"{name} is broken, or of another version of bsszoo ({one_line(said)}). Take it away to do without it, or "
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

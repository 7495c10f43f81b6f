"""What a checkpoint file holds, checked before anything of it is used: a damaged one is never resumed from.

Two things can be wrong. The bytes are not those that were written: ``read_checkpoint`` compares the CRC-32 that each
record of torch's format carries, which ``torch.load`` does not. Or the contents are not those of this training:
``contents_fault`` compares them with the network, the optimiser and the rounds that the recipe makes.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from bsszoo.errors import SettingsError
from bsszoo.texts import one_line

_FORMAT: Final = 1
#: Entries that every checkpoint has, and their kinds.
_ENTRIES: Final[Mapping[str, tuple[type, ...]]] = {
    "format": (int,),
    "data": (str,),
    "update": (int,),
    "loss_sum": (int, float),
    "seconds": (int, float),
    "rows": (list,),
    "model": (dict,),
    "optimizer": (dict,),
    "ema": (dict, type(None)),
    "scaler": (dict, type(None)),
}
_REMEDY: Final = "Replace the file by a whole copy; or remove it, and the same command trains anew from the start."

# What timm's Lookahead calls the slow weights in the state of a parameter.
_LOOKAHEAD: Final = "lookahead_slow_buff"


def read_checkpoint(file: Path) -> dict[str, Any]:
    """The checkpoint in a file, every byte of its records as it was written.

    Raises:
        SettingsError: It cannot be read, was damaged, or holds something else; the text says what can be done.
    """
    try:
        _check_records(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever zipfile, the unpickler and torch raise on a damaged file
        raise refusal(file, f"{type(error).__name__}: {one_line(error)}", "cannot be read") from None
    fault = _entries_fault(state)
    if fault is not None:
        raise refusal(file, fault)
    whole: dict[str, Any] = state
    return whole


def refusal(file: Path, fault: str, what: str = "does not hold this training") -> SettingsError:
    """The error for a checkpoint that is not resumed from."""
    return SettingsError(f"The checkpoint {file} {what} ({fault}). {_REMEDY}")


def _check_records(file: Path) -> None:
    """Compare each record with the checksum that it was written with; ``ValueError`` names one that differs."""
    with zipfile.ZipFile(file) as records:
        for record in records.infolist():
            # torch writes records as they are. A compressed one could be of any size.
            if record.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"the record {one_line(record.filename)} is compressed")
        try:
            damaged = records.testzip()
        except (zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise ValueError(f"its records are damaged: {error}") from None
        if damaged is not None:
            raise ValueError(f"the record {one_line(damaged)} has another checksum than it was written with")


def _entries_fault(state: object) -> str | None:
    if not isinstance(state, dict):
        return f"it holds a {type(state).__name__}"
    for name, kinds in _ENTRIES.items():
        if name not in state:
            return f"it has no {name!r}"
        if type(state[name]) not in kinds:
            return f"its {name!r} is a {type(state[name]).__name__}"
    if state["format"] != _FORMAT:
        return f"its format is {one_line(state['format'])}, and this version reads {_FORMAT}"
    if not isinstance(state.get("best"), (str, type(None))):
        return f"its 'best' is a {type(state['best']).__name__}"
    return None


@dataclass(frozen=True)
class OptimizerForm:
    """What the state of a recipe's optimiser looks like after an update: groups, and each parameter's entries."""

    groups: tuple[Mapping[str, Any], ...]
    fresh: tuple[Mapping[str, Any], ...]
    entries: Mapping[int, Mapping[str, tuple[Any, ...]]]


def optimizer_form(optimizer: torch.optim.Optimizer) -> OptimizerForm | None:
    """The form of an optimiser's state, measured by an update without gradients; it changes the weights by their decay.

    None for an optimiser that cannot be stepped like that; its state is checked less.
    """
    fresh = optimizer.state_dict()["param_groups"]
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
    try:
        optimizer.step()
    except Exception:  # of any of timm's optimisers
        return None
    finally:
        optimizer.zero_grad(set_to_none=True)
    stepped = optimizer.state_dict()
    return OptimizerForm(
        tuple(stepped["param_groups"]),
        tuple(fresh),
        {number: {name: _form(value) for name, value in entry.items()} for number, entry in stepped["state"].items()},
    )


def contents_fault(
    state: Mapping[str, Any],
    *,
    ends: Sequence[int],
    row_kind: type[Any],
    model: nn.Module,
    ema: nn.Module | None,
    scaler: Any,
    optimizer: OptimizerForm | None,
) -> str | None:
    """Why a checkpoint cannot be of this training; None where all fits.

    Args:
        state: What ``read_checkpoint`` returned.
        ends: The updates after which the training is validated.
        row_kind: The kind of its rows.
        model, ema: The network, and its moving average where there is one.
        scaler: The gradients' scaler, None without one.
        optimizer: The form of its optimiser's state.
    """
    return next(_faults(state, ends, row_kind, model, ema, scaler, optimizer), None)


def _faults(
    state: Mapping[str, Any],
    ends: Sequence[int],
    row_kind: type[Any],
    model: nn.Module,
    ema: nn.Module | None,
    scaler: Any,
    optimizer: OptimizerForm | None,
) -> Iterator[str]:
    yield from _progress_faults(state, ends, row_kind)
    yield from _tensor_faults("model", state["model"], model)
    for name, part in (("ema", ema), ("scaler", scaler)):
        if (state[name] is None) != (part is None):
            yield f"it has {'no' if part is not None else 'a'} {name!r}, unlike the recipe"
    if ema is not None:
        yield from _tensor_faults("ema", state["ema"], ema)
    if scaler is not None:
        wanted = scaler.state_dict()
        if state["scaler"].keys() != wanted.keys() or not all(map(_number, state["scaler"].values())):
            yield "its 'scaler' is of another form"
    yield from _optimizer_faults(
        state["optimizer"], optimizer, stepped=state["update"] > 0, may_skip=scaler is not None
    )


def _progress_faults(state: Mapping[str, Any], ends: Sequence[int], row_kind: type[Any]) -> Iterator[str]:
    rows, update = state["rows"], state["update"]
    for name in ("loss_sum", "seconds"):
        if not math.isfinite(state[name]):
            yield f"its {name!r} is {state[name]}"
    names = [f.name for f in fields(row_kind)]
    whole = [f.name for f in fields(row_kind) if f.type in (int, "int")]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or list(row) != names:
            yield f"row {number} has other fields than {', '.join(names)}"
            return
        for name, value in row.items():
            if not _number(value) or (name in whole and not isinstance(value, int)):
                yield f"row {number} has {one_line(repr(value))} for {name!r}"
                return
        # The first field counts the rounds.
        if number > len(ends) or row[names[0]] != number or row["update"] != ends[number - 1]:
            yield f"row {number} is of {names[0]} {row[names[0]]} after {row['update']:,} updates"
            return
        if not math.isfinite(row_kind(**row).score):
            yield f"row {number} has no finite score"
    least = ends[len(rows) - 1] if rows else 0
    most = ends[min(len(rows), len(ends) - 1)]
    if not least <= update <= most:
        yield f"it is of update {update:,}, and {len(rows)} rounds end after {least:,}"


def _tensor_faults(name: str, tensors: Mapping[Any, Any], network: nn.Module) -> Iterator[str]:
    wanted = network.state_dict()
    lost = [k for k in wanted if k not in tensors]
    extra = [k for k in tensors if k not in wanted]
    if lost or extra:
        yield f"its {name!r} {'lacks' if lost else 'has another tensor,'} {one_line((lost or extra)[0])}"
        return
    for key, tensor in wanted.items():
        value = tensors[key]
        if not isinstance(value, torch.Tensor) or _form(value) != _form(tensor):
            yield f"{key} of its {name!r} is {_described(value)}, and the network's {_described(tensor)}"
            return
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            yield f"{key} of its {name!r} is not finite"
            return


def _optimizer_faults(
    state: Mapping[str, Any], form: OptimizerForm | None, *, stepped: bool, may_skip: bool
) -> Iterator[str]:
    groups, entries = state.get("param_groups"), state.get("state")
    if not isinstance(groups, list) or not all(isinstance(g, dict) for g in groups) or not isinstance(entries, dict):
        yield "its 'optimizer' is of another form"
        return
    if form is None:
        return
    if len(groups) != len(form.groups):
        yield f"its optimiser has {len(groups)} groups of parameters, and the recipe's {len(form.groups)}"
        return
    # With a scaled loss the first updates may be skipped.
    begun = stepped and not (may_skip and not entries)
    for group, after, before in zip(groups, form.groups, form.fresh, strict=True):
        # What torch adds from one version to the next is filled in; what an update leaves there has to be there.
        unknown = group.keys() - after.keys() - {"initial_lr"}
        lost = (after.keys() - before.keys() if begun else set()) - group.keys()
        if unknown or lost or group.get("params") != after["params"]:
            yield f"its optimiser is of another kind or of other parameters{_first(unknown | lost)}"
            return
        wrong = [k for k, v in group.items() if k in after and not _alike(v, after[k])]
        if wrong:
            yield f"its optimiser has {one_line(repr(group[wrong[0]]))} for {wrong[0]!r}"
            return
    if entries.keys() != (form.entries.keys() if begun else set()):
        yield f"its optimiser has states of {len(entries)} parameters, and the recipe's of {len(form.entries)}"
        return
    for number, entry in entries.items():
        wanted = form.entries[number]
        # timm's Lookahead adds its slow weights after several updates only.
        if (
            not isinstance(entry, dict)
            or entry.keys() - {_LOOKAHEAD} != wanted.keys() - {_LOOKAHEAD}
            or any(_form(entry[name]) != wanted[name] for name in wanted)
            or not isinstance(entry.get(_LOOKAHEAD, torch.zeros(0)), torch.Tensor)
        ):
            yield f"the state of its optimiser for parameter {number} is of another kind or shape"
            return


def with_recipe_settings(state: Mapping[str, Any], form: OptimizerForm | None) -> dict[str, Any]:
    """An optimiser's state with the values that the recipe sets taken from the recipe, not from the file."""
    if form is None:
        return dict(state)
    from_recipe = ("lr", "momentum", "weight_decay", "nesterov")
    return {
        "state": state["state"],
        "param_groups": [
            {
                **before,
                **{k: v for k, v in group.items() if k != "initial_lr"},
                **{k: before[k] for k in from_recipe if k in before},
            }
            for group, before in zip(state["param_groups"], form.fresh, strict=True)
        ],
    }


def _form(value: Any) -> tuple[Any, ...]:
    if isinstance(value, torch.Tensor):
        where = "meta" if value.device.type == "meta" else ""
        return ("tensor", tuple(value.shape), value.dtype, value.layout, where)
    return ("number",) if _number(value) else (type(value).__name__,)


def _described(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _alike(value: Any, wanted: Any) -> bool:
    """Whether a setting is of the kind that the optimiser has there."""
    if wanted is None:
        return value is None or isinstance(value, (bool, int, float))
    if isinstance(wanted, (list, tuple)):
        return isinstance(value, (list, tuple)) and len(value) == len(wanted) and all(map(_alike, value, wanted))
    return (value is None and isinstance(wanted, bool)) or _form(value) == _form(wanted)


def _first(names: set[str]) -> str:
    return f": {one_line(sorted(map(str, names))[0])}" if names else ""

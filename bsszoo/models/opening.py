"""What a person names on a command line as a network: a name, a code, a repository, a folder or a weights file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from torch import nn

from bsszoo.codes.code import Code
from bsszoo.errors import SettingsError, UnknownNameError
from bsszoo.models.create import create
from bsszoo.models.names import resolve_code
from bsszoo.models.weights import SOURCES, check_size, hub_org, saved_code, saved_sizes

_FILES: Final = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt")


def open_network(
    source: str, *, weights: str | bool = True, code: str | Code | None = None, num_classes: int | None = None,
    in_chans: int | None = None,
) -> nn.Module:
    """The network that a text names, with its weights, in evaluation mode on the CPU.

    Args:
        source: A zoo name, a code's text, ``hf-hub:org/name``, the folder of a training or of a pulled network, or a
            weights file.
        weights: Of a name or a code: True for the published ones, False for random ones, or a source as
            ``bsszoo.create`` takes it. A repository, folder or file has its own.
        code: The network of a weights file.
        num_classes, in_chans: As ``bsszoo.create``; those of the weights by default.

    Raises:
        SettingsError: A weights file without ``code``, or a folder that is not there.
        UnknownNameError, CodeError, WeightsError: As ``bsszoo.create``.
    """
    sizes: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_chans}
    path = Path(source).expanduser()
    if (kept := _kept(source)) is not None:
        made = create(kept, pretrained=weights, **sizes)
    elif path.suffix in _FILES or path.is_file():
        if not path.is_file():
            raise SettingsError(f"There is no file {source!r}.")
        if code is None:
            raise SettingsError(f"{source} does not say what network its weights are of: name it with --code, a "
                                "name of `bsszoo list` or a code; or give its folder, with the config.json in it.")
        made = create(code, pretrained=path, **sizes)
    else:
        try:
            made = create(source, pretrained=weights, **sizes)
        except UnknownNameError as error:
            if len(path.parts) > 1:
                raise SettingsError(f"There is no folder {source!r}, and no network of that name.") from error
            raise
    return made.eval()


def code_named(source: str, code: str | Code | None = None) -> Code:
    """The code of the network that a text names, as ``open_network``, without its weights.

    Raises:
        SettingsError, UnknownNameError, CodeError, WeightsError: As ``open_network``.
    """
    path = Path(source).expanduser()
    if (kept := _kept(source)) is not None:
        found = saved_code(kept)
        check_size(found, kept)
        return found
    if code is not None:
        return resolve_code(code)
    if path.is_file():
        raise SettingsError(f"{source} does not say what network its weights are of: name it with --code.")
    return resolve_code(source)


def sizes_named(source: str) -> tuple[int, int]:
    """The classes and the input channels of the network that a text names: 1000 and 3 of a name or a code.

    Raises:
        UnknownNameError, CodeError, WeightsError: As ``open_network``.
    """
    kept = _kept(source)
    return (1000, 3) if kept is None else saved_sizes(kept)


def _kept(source: str) -> str | None:
    """Where the network is kept that a text names so, or by a name that one's own organisation has; else None."""
    if source.startswith(SOURCES):
        return source
    path = Path(source).expanduser()
    if path.is_dir():
        return f"local-dir:{path}"
    org = hub_org(None)
    if org is None or path.is_file():
        return None
    try:
        resolve_code(source)
    except UnknownNameError:
        return f"hf-hub:{org}/{source}"
    return None

"""``pull`` a repository into a folder, and ``look`` at what it says of its network without its weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.hf_api import RepoFile

from bsszoo.codes.code import Code
from bsszoo.codes.cost import Cost, code_cost
from bsszoo.errors import RunError, SettingsError, WeightsError
from bsszoo.hub.contents import CARD, SEARCH, TRAINING
from bsszoo.hub.figures import Measured, measured_of
from bsszoo.hub.remote import check_reachable, hub_api, in_words
from bsszoo.hub.source import CONFIG
from bsszoo.zoo.hub_files import PICKLES, WEIGHTS_FILE, HubRepository
from bsszoo.zoo.saved_config import code_in
from bsszoo.zoo.weights import sha256_of

# What is pulled: everything that a push writes, exported networks, and nothing that can run when it is opened.
_SUFFIXES: Final = (".safetensors", ".json", ".md", ".yaml", ".csv", ".png", ".svg", ".txt", ".onnx")


@dataclass(frozen=True, slots=True)
class Pulled:
    """What was pulled: the network's code, the folder, its files, and those that were left on the Hub."""

    repository: str
    code: Code
    folder: Path
    files: tuple[str, ...]
    left: tuple[str, ...]
    commit: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What a repository says of its network.

    ``cost`` is counted here from the code, at its image size and for its number of classes; ``size`` is the weights'
    [bytes]; ``search`` and ``licence`` are None where nothing is said of them.
    """

    repository: str
    code: Code
    cost: Cost
    num_classes: int
    in_chans: int
    measured: tuple[Measured, ...]
    size: int
    commit: str
    files: tuple[str, ...]
    licence: str | None = None
    search: dict[str, Any] | None = None
    training: dict[str, Any] | None = None


def pull(repository: str, out: str | Path | None = None, *, token: str | None = None) -> Pulled:
    """Copy a repository's network into a folder that ``bsszoo.create("local-dir:..")``, timm and ``validate`` take.

    Args:
        repository: ``org/name`` or ``org/name@revision``.
        out: The folder, by default NAME here; it may hold an earlier pull.
        token: A token of the Hub; by default that of ``HF_TOKEN`` or of ``hf auth login``.

    Raises:
        SettingsError: There is no such repository or revision, no right to read it, or the folder holds other files.
        WeightsError: It holds no network of a code, or weights that are not those of its own checksums.
        RunError: The Hub cannot be reached, or broke off.
    """
    target = _parse(repository)
    folder = Path(out).expanduser() if out is not None else Path(target.name.rpartition("/")[2])
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / CONFIG).is_file())):
        raise SettingsError(f"{folder} is there already and is no pulled network: give a new folder with --out.")
    check_reachable()
    api = hub_api(token)
    with in_words(target, "read"):
        commit = str(api.model_info(target.name, revision=target.revision).sha)
        held = _tree(api, target, commit)
        names = [name for name in held if name.endswith(_SUFFIXES)]
        if CONFIG not in names or WEIGHTS_FILE not in names:
            pickles = [name for name in held if name in PICKLES]
            raise WeightsError(
                f"{target.label} holds its weights as {pickles[0]}, a pickle, which can run any program when it is "
                f"opened: only {WEIGHTS_FILE} is taken." if pickles and CONFIG in names else
                f"{target.label} holds no network: it needs {CONFIG} and {WEIGHTS_FILE}.")
        # Before the large file: what it is.
        code = code_in(Path(_one(api, target, CONFIG, commit)), target.label)
        snapshot_download(target.name, revision=commit, local_dir=folder, allow_patterns=names, token=api.token)
    for name, file in held.items():
        if name in names and file.lfs is not None and sha256_of(folder / name) != file.lfs.sha256:
            (folder / name).unlink()
            raise WeightsError(f"{name} of {target.label} does not have the checksum that the Hub says; it was "
                               "removed. Run the same command again.")
    left = tuple(name for name in held if name not in names and name != ".gitattributes")
    return Pulled(target.text, code, folder, tuple(names), left, commit)


def look(repository: str, *, token: str | None = None) -> Facts:
    """What a repository's small files say; the weights are not fetched.

    Raises:
        SettingsError, WeightsError, RunError: As ``pull``.
    """
    target = _parse(repository)
    check_reachable()
    api = hub_api(token)
    with in_words(target, "read"):
        info = api.model_info(target.name, revision=target.revision)
        commit = str(info.sha)
        held = _tree(api, target, commit)
        if CONFIG not in held:
            raise WeightsError(f"{target.label} holds no network of bsszoo's or timm's: it has no {CONFIG}.")
        path = Path(_one(api, target, CONFIG, commit))
        code = code_in(path, target.label)

        def read(name: str, parse: Callable[[str], Any]) -> Any:
            if name not in held:
                return None
            return parse(Path(_one(api, target, name, commit)).read_text(encoding="utf-8"))

        try:
            config, training, search = (read(n, json.loads) for n in (CONFIG, TRAINING, SEARCH))
            licence = read(CARD, _licence)
        except ValueError as error:
            raise WeightsError(f"A file of {target.label} is broken: {error}.") from error
    channels = (config.get("pretrained_cfg", {}).get("input_size") or [3])[0]
    classes = int(config.get("num_classes", 1000))
    weights = held.get(WEIGHTS_FILE)
    return Facts(
        target.text, code, code_cost(code, num_classes=classes, in_chans=int(channels)), classes, int(channels),
        measured_of(training), 0 if weights is None else int(weights.size), commit, tuple(held), licence, search,
        training,
    )


def _parse(repository: str) -> HubRepository:
    try:
        target = HubRepository.parse(repository.removeprefix("hf-hub:"))
    except WeightsError as error:
        raise SettingsError(str(error)) from None
    return target


def _tree(api: HfApi, target: HubRepository, commit: str) -> dict[str, RepoFile]:
    """The files of a commit by name; a name that would leave its folder is an error, whoever serves it."""
    found = {f.path: f for f in api.list_repo_tree(target.name, revision=commit, recursive=True)
             if isinstance(f, RepoFile)}
    for name in found:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
            raise WeightsError(f"{target.label} lists a file {name!r}, which would be written outside its folder. "
                               "Nothing was taken from it.")
    return found


def _one(api: HfApi, target: HubRepository, name: str, commit: str) -> str:
    try:
        return str(hf_hub_download(target.name, name, revision=commit, token=api.token))
    except EntryNotFoundError as error:
        raise RunError(f"{target.label} lists {name} and does not give it. Run the same command again.") from error


def _licence(card: str) -> str | None:
    from huggingface_hub import ModelCard

    data: Any = ModelCard(card, ignore_metadata_errors=True).data
    found = data.to_dict().get("license")
    return str(found) if found else None

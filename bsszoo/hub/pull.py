"""``pull`` a repository into a folder, and ``look`` at the records of its network without its weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any, Final

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.hf_api import RepoFile
from yaml import YAMLError

from bsszoo.codes.code import Code
from bsszoo.codes.cost import Cost, code_cost
from bsszoo.errors import BssZooError, RunError, SettingsError, WeightsError
from bsszoo.hub.contents import CARD, SEARCH, TRAINING
from bsszoo.hub.pulled_folder import check_room, earlier_files, is_taken, move_into, refuse_names, scratch_beside
from bsszoo.hub.remote import check_reachable, hub_api, in_words
from bsszoo.hub.source import CONFIG, Measured, count_in, measured_of, number_in, text_in
from bsszoo.models.hub_files import PICKLES, WEIGHTS_FILE, HubRepository, forget
from bsszoo.models.loading import check_file
from bsszoo.models.saved_config import checksum_in, code_in, sizes_in
from bsszoo.models.weights import sha256_of
from bsszoo.texts import one_line, parse_json, parse_yaml

# The most bytes of a file that is read as text: a search's result has some hundred thousand.
_TEXT_BYTES: Final = 1 << 24
# The most files of a repository that are listed.
_FILES: Final = 10_000


@dataclass(frozen=True, slots=True)
class Pulled:
    """A pulled network: its code, the folder, its files, and those that were left on the Hub."""

    repository: str
    code: Code
    folder: Path
    files: tuple[str, ...]
    left: tuple[str, ...]
    commit: str


@dataclass(frozen=True, slots=True)
class Facts:
    """The records of a repository's network.

    ``cost`` is counted here from the code, at its image size and for its number of classes; ``size`` is the weights'
    [bytes]; ``search``, ``training`` and ``licence`` are None without a record.
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

    All files are fetched into a folder beside it and compared with the Hub's checksums, and the weights with that of
    their ``config.json`` and with the shapes of its code, before any of them is moved into it. Hidden files and kinds
    that can run stay on the Hub. Files in the folder that no pull wrote are never touched.

    Args:
        repository: ``org/name`` or ``org/name@revision``.
        out: The folder, by default NAME here: a new or empty one, or one of an earlier pull, whose files are replaced.
        token: A token of the Hub; by default that of ``HF_TOKEN`` or of ``hf auth login``.

    Raises:
        SettingsError: There is no such repository or revision, no right to read it, or the folder holds other files.
        WeightsError: It holds no network of a code, weights that do not match its checksums or code, or names
            that would leave the folder.
        RunError: The Hub cannot be reached, or the connection was lost; the folder is unchanged.
    """
    target = _parse(repository)
    path = Path(out).expanduser() if out is not None else Path(target.name.rpartition("/")[2])
    folder = Path(os.path.realpath(path))
    earlier = earlier_files(folder)
    check_reachable()
    api = hub_api(token)
    with scratch_beside(folder) as scratch, in_words(target, "read"):
        commit = str(api.model_info(target.name, revision=target.revision).sha)
        files = _tree(api, target, commit)
        names = [name for name in files if is_taken(name)]
        if CONFIG not in names or WEIGHTS_FILE not in names:
            pickles = [name for name in files if name in PICKLES]
            raise WeightsError(
                f"{target.label} holds its weights as {pickles[0]}, a pickle, which can run any program when it is "
                f"opened: only {WEIGHTS_FILE} is taken."
                if pickles and CONFIG in names
                else f"{target.label} holds no network: it needs {CONFIG} and {WEIGHTS_FILE}."
            )
        check_room(folder, names, earlier)
        # The configuration before the large file.
        _fetch(api, target, commit, [CONFIG], files, scratch)
        code, checksum = code_in(scratch / CONFIG, target.label), checksum_in(scratch / CONFIG, target.label)
        _fetch(api, target, commit, names, files, scratch)
        if checksum is not None and sha256_of(scratch / WEIGHTS_FILE) != checksum.lower():
            raise WeightsError(
                f"The weights of {target.label} are not those that its config.json recorded. Nothing was taken from it."
            )
        check_file(scratch / WEIGHTS_FILE, code, target.label)
        move_into(scratch, folder, names, earlier, {"repository": target.text, "commit": commit})
    left = tuple(name for name in files if name not in names and name != ".gitattributes")
    return Pulled(target.text, code, path, tuple(names), left, commit)


def look(repository: str, *, token: str | None = None) -> Facts:
    """The records in a repository's small files; the weights are not fetched.

    Raises:
        SettingsError, WeightsError, RunError: As ``pull``.
    """
    target = _parse(repository)
    check_reachable()
    api = hub_api(token)
    with in_words(target, "read"):
        info = api.model_info(target.name, revision=target.revision)
        commit = str(info.sha)
        files = _tree(api, target, commit)
        if CONFIG not in files:
            raise WeightsError(f"{target.label} holds no network of bsszoo's or timm's: it has no {CONFIG}.")
        small = [name for name in (CONFIG, TRAINING, SEARCH, CARD) if name in files]
        folder = _fetch(api, target, commit, small, files)
        path = folder / CONFIG
        code = code_in(path, target.label)

        def text_of(name: str) -> str | None:
            return (folder / name).read_text(encoding="utf-8") if name in files else None

        classes, channels = sizes_in(path, target.label)
        name = TRAINING
        try:
            training = _training_in(text_of(name))
            measured = measured_of(training)
            name = SEARCH
            search = _search_in(text_of(name))
            name = CARD
            licence = _licence(text_of(name))
        except ValueError as error:
            if isinstance(error, BssZooError):
                raise
            raise WeightsError(
                f"The {name} of {target.label} is broken, or none of bsszoo's: {one_line(error)}."
            ) from error
    weights = files.get(WEIGHTS_FILE)
    size = 0 if weights is None else int(weights.size)
    cost = code_cost(code, num_classes=classes, in_chans=channels)
    return Facts(
        target.text, code, cost, classes, channels, measured, size, commit, tuple(files), licence, search, training
    )


def _parse(repository: str) -> HubRepository:
    try:
        target = HubRepository.parse(repository.removeprefix("hf-hub:"))
    except WeightsError as error:
        raise SettingsError(str(error)) from None
    return target


def _fetch(
    api: HfApi,
    target: HubRepository,
    commit: str,
    names: Collection[str],
    files: Mapping[str, RepoFile],
    folder: Path | None = None,
) -> Path:
    """The folder, by default one in the Hub's cache, with these files of a commit, as the Hub lists them."""
    at = Path(
        snapshot_download(
            target.name,
            revision=commit,
            # Names and not patterns: a bracket in one is literal.
            allow_patterns=[escape(name) for name in names],
            local_dir=folder,
            token=api.token,
        )
    )
    for name in names:
        if not _same(at / name, files[name]):
            forget(at / name)
            raise RunError(
                f"{name} of {target.label} does not have the Hub's checksum. Nothing was changed; run the "
                "same command again."
            )
    return at


def _same(path: Path, file: RepoFile) -> bool:
    """Whether a file is what the Hub lists: its size, and its SHA-256 (large files) or git's name (others)."""
    if path.stat().st_size != file.size:
        return False
    if file.lfs is not None:
        return sha256_of(path) == file.lfs.sha256
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() == file.blob_id


def _tree(api: HfApi, target: HubRepository, commit: str) -> dict[str, RepoFile]:
    """The files of a commit by name; a name that would leave its folder is an error, whoever serves it."""
    files: dict[str, RepoFile] = {}
    for file in api.list_repo_tree(target.name, revision=commit, recursive=True):
        if isinstance(file, RepoFile):
            files[file.path] = file
        if len(files) > _FILES:
            raise WeightsError(f"{target.label} lists more than {_FILES:,} files, which no network has.")
    refuse_names(files, target.label)
    for name in (CONFIG, TRAINING, SEARCH, CARD):
        if name in files and files[name].size > _TEXT_BYTES:
            raise WeightsError(
                f"{name} of {target.label} has {files[name].size:,} bytes; at most {_TEXT_BYTES:,} are read."
            )
    return files


def _training_in(text: str | None) -> dict[str, Any] | None:
    """A repository's ``training.json``; a ``ValueError`` where an entry that is displayed is invalid."""
    if text is None:
        return None
    training = _object(text)
    count_in(training, "epochs"), count_in(training, "seed")
    text_in(training, "versions", "bsszoo"), text_in(training, "versions", "torch")
    return training


def _search_in(text: str | None) -> dict[str, Any] | None:
    """A repository's ``search.json``, as ``_training_in``."""
    if text is None:
        return None
    search = _object(text)
    number_in(search, "budget", "macs"), count_in(search, "trials", "complete"), count_in(search, "seed")
    text_in(search, "reference"), text_in(search, "evaluator", "name")
    return search


def _object(text: str) -> dict[str, Any]:
    data = parse_json(text)
    if not isinstance(data, dict):
        raise ValueError("it holds no object")
    return data


def _licence(card: str | None) -> str | None:
    """The licence that a card's metadata names; None where it cannot be read, as nothing depends on it."""
    lines = (card or "").lstrip("\ufeff").splitlines()
    if not lines or lines[0].rstrip() != "---":
        return None
    end = next((i for i, line in enumerate(lines[1:], start=1) if line.rstrip() == "---"), 0)
    try:
        data = parse_yaml("\n".join(lines[1:end]))
    except YAMLError:
        return None
    entry = data.get("license") if isinstance(data, dict) else None
    names = [name for name in (entry if isinstance(entry, list) else [entry]) if isinstance(name, str)]
    return ", ".join(names) or None

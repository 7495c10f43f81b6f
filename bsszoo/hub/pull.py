"""``pull`` a repository into a folder, and ``look`` at what it says of its network without its weights."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.hf_api import RepoFile

from bsszoo.codes.code import Code
from bsszoo.codes.cost import Cost, code_cost
from bsszoo.errors import BssZooError, RunError, SettingsError, WeightsError
from bsszoo.files import write_whole
from bsszoo.hub.contents import CARD, SEARCH, TRAINING
from bsszoo.hub.figures import Measured, measured_of
from bsszoo.hub.remote import check_reachable, hub_api, in_words
from bsszoo.hub.source import CONFIG
from bsszoo.zoo.hub_files import PICKLES, WEIGHTS_FILE, HubRepository
from bsszoo.zoo.saved_config import checksum_in, code_in, sizes_in
from bsszoo.zoo.weights import sha256_of

# What is pulled: everything that a push writes, exported networks, and nothing that can run when it is opened.
_SUFFIXES: Final = (".safetensors", ".json", ".md", ".yaml", ".csv", ".png", ".svg", ".txt", ".onnx")
# In a pulled folder: from where, and which files are the pull's. Nothing else in the folder is ever touched.
_MARK: Final = ".pulled.json"


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
    [bytes]; ``search``, ``training`` and ``licence`` are None where nothing is said of them.
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
    their ``config.json``, before any of them takes its place.

    Args:
        repository: ``org/name`` or ``org/name@revision``.
        out: The folder, by default NAME here: a new or empty one, or one of an earlier pull, whose files are replaced.
        token: A token of the Hub; by default that of ``HF_TOKEN`` or of ``hf auth login``.

    Raises:
        SettingsError: There is no such repository or revision, no right to read it, or the folder holds other files.
        WeightsError: It holds no network of a code, or weights that are not those of its own checksums.
        RunError: The Hub cannot be reached, or broke off; the folder is as it was.
    """
    target = _parse(repository)
    folder = Path(out).expanduser() if out is not None else Path(target.name.rpartition("/")[2])
    earlier = _earlier(folder)
    check_reachable()
    api = hub_api(token)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=".bsszoo-pull-", dir=folder.parent)
    except OSError as error:
        raise SettingsError(f"{folder} cannot be written: {error.strerror or error}.") from None
    with scratch as beside, in_words(target, "read"):
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
        for name in sorted(names, key=lambda one: one != CONFIG):
            path = Path(hf_hub_download(target.name, name, revision=commit, local_dir=beside, token=api.token))
            if not _same(path, held[name]):
                raise RunError(f"{name} of {target.label} does not have the checksum that the Hub says. Nothing was "
                               "changed; run the same command again.")
            if name == CONFIG:
                code, own = code_in(path, target.label), checksum_in(path, target.label)
        if own is not None and sha256_of(Path(beside, WEIGHTS_FILE)) != own.lower():
            raise WeightsError(f"The weights of {target.label} are not those that its config.json recorded. Nothing "
                               "was taken from it.")
        _place(Path(beside), folder, names, earlier, {"repository": target.text, "commit": commit})
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

        classes, channels = sizes_in(path, target.label)
        name = TRAINING
        try:
            training = read(name, json.loads)
            measured = measured_of(training)
            name = SEARCH
            search = read(name, json.loads)
            _check_search(search)
            name = CARD
            licence = read(name, _licence)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, BssZooError):
                raise
            raise WeightsError(f"The {name} of {target.label} is broken, or none of bsszoo's: "
                               f"{type(error).__name__}: {error}.") from error
    weights = held.get(WEIGHTS_FILE)
    size = 0 if weights is None else int(weights.size)
    cost = code_cost(code, num_classes=classes, in_chans=channels)
    return Facts(target.text, code, cost, classes, channels, measured, size, commit, tuple(held), licence, search,
                 training)


def _parse(repository: str) -> HubRepository:
    try:
        target = HubRepository.parse(repository.removeprefix("hf-hub:"))
    except WeightsError as error:
        raise SettingsError(str(error)) from None
    return target


def _earlier(folder: Path) -> tuple[str, ...]:
    """The files of an earlier pull in a folder; a ``SettingsError`` where it holds anything that is no pull's."""
    if not folder.exists():
        return ()
    if folder.is_dir() and not any(folder.iterdir()):
        return ()
    try:
        found = json.loads((folder / _MARK).read_text(encoding="utf-8"))["files"]
        return tuple(str(name) for name in found)
    except (OSError, ValueError, KeyError, TypeError):
        raise SettingsError(f"{folder} is there already and is no pulled network: give a new folder with "
                            "--out.") from None


def _place(beside: Path, folder: Path, names: list[str], earlier: tuple[str, ...], about: dict[str, str]) -> None:
    """Put fetched files into their folder, and take away those of an earlier pull that are no longer among them."""
    try:
        folder.mkdir(exist_ok=True)
        # First what it will hold: a pull that is cut off here is an earlier pull to the next one.
        mark = json.dumps({**about, "files": sorted({*names, *earlier})}, indent=2)
        write_whole(folder / _MARK, mark + "\n")
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (beside / name).replace(folder / name)
        for name in set(earlier) - set(names):
            (folder / name).unlink(missing_ok=True)
        write_whole(folder / _MARK, json.dumps({**about, "files": sorted(names)}, indent=2) + "\n")
    except OSError as error:
        raise SettingsError(f"{folder} cannot be written: {error.strerror or error}.") from None


def _same(path: Path, file: RepoFile) -> bool:
    """Whether a file has the content that the Hub lists: by SHA-256 for large files, by git's name for others."""
    if file.lfs is not None:
        return sha256_of(path) == file.lfs.sha256
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() == file.blob_id


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


def _check_search(search: Any) -> None:
    if search is not None:
        _ = (search["trials"]["complete"], search["budget"]["macs"] + 0, search["reference"], search["seed"],
             search["evaluator"]["name"])


def _licence(card: str) -> str | None:
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    try:
        data: Any = ModelCard(card, ignore_metadata_errors=True).data
    except YAMLError:
        return None  # somebody's card; the network is no worse for it
    found = data.to_dict().get("license")
    return str(found) if found else None

"""``push``: a trained network into a repository of the Hub, as one commit, whole or not at all."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from bsszoo.codes.code import Code
from bsszoo.errors import SettingsError, WeightsError
from bsszoo.hub.contents import FILES, write_contents, write_dry_run
from bsszoo.hub.remote import check_reachable, hub_api, in_words, who
from bsszoo.hub.source import CONFIG, find_trained
from bsszoo.models.hub_files import HubRepository
from bsszoo.models.saved_config import code_in, same_network

# What the Hub itself puts into a new repository.
_BARE: Final = {".gitattributes", "README.md"}


@dataclass(frozen=True, slots=True)
class Pushed:
    """A push: the code, the files, and their address; ``commit`` is None for a dry run.

    ``changed`` is False when the repository held exactly these files already.
    """

    repository: str
    code: Code
    files: tuple[str, ...]
    address: str
    commit: str | None = None
    changed: bool = True


def push(
    source: str | Path,
    repository: str,
    *,
    code: str | Code | None = None,
    search: str | Path | None = None,
    licence: str | None = None,
    private: bool = False,
    revision: str | None = None,
    force: bool = False,
    dry_run: str | Path | None = None,
    token: str | None = None,
) -> Pushed:
    """Publish a trained network as ``org/name``: weights, configuration, model card, recipe, and its search.

    The same source gives the same files, so pushing again changes nothing. All files arrive in one commit: a push that
    is interrupted leaves the repository at its last one, and the same call finishes it.

    Args:
        source: A folder of ``bsszoo train``, a folder of ``bsszoo compress`` with ``--finish``, or a weights file.
        repository: ``org/name``.
        code: The network of a weights file.
        search: The run of the code's search, when the training is not in it.
        licence: The licence of the weights as the Hub names it (``apache-2.0``); the card says when none is stated.
        private: Make a new repository private; an existing one stays as it is.
        revision: The branch to push to, made if it does not exist; the main one by default.
        force: Overwrite a repository that holds another code, or files that are no network of bsszoo.
        dry_run: Write the files into this folder instead, without a network.
        token: A token of the Hub; by default that of ``HF_TOKEN`` or of ``hf auth login``. It is never written.

    Raises:
        SettingsError: There is nothing to publish, no right to, or the repository holds another network.
        WeightsError: The weights do not fit their code.
        RunError: The Hub cannot be reached, or the connection was lost.
    """
    target = _target(repository, revision)
    trained = find_trained(source, code=code, search=search)
    if dry_run is not None:
        folder = Path(dry_run).expanduser()
        files = write_dry_run(trained, target.text, folder, licence=licence)
        return Pushed(target.text, trained.code, files, str(folder))
    check_reachable()
    api = hub_api(token)
    with tempfile.TemporaryDirectory(prefix="bsszoo-push-") as scratch:
        folder = Path(scratch)
        files = write_contents(trained, target.text, folder, licence=licence)
        with in_words(target, "push to"):
            done, before = _send(api, target, folder, files, trained.code, private=private, force=force)
    address = f"{constants.ENDPOINT}/{target.name}" + (f"/tree/{target.revision}" if target.revision else "")
    return Pushed(target.text, trained.code, files, address, str(done.oid), changed=done.oid != before)


def _send(
    api: HfApi, target: HubRepository, folder: Path, files: tuple[str, ...], code: Code, *, private: bool, force: bool
) -> tuple[Any, str]:
    """The commit that holds the files, and the one before it."""
    _make(api, target, private=private, user=who(api))
    main = before = api.model_info(target.name).sha
    if target.revision:
        # A new branch begins as the main one; until something is pushed to it, it holds nothing to lose.
        api.create_branch(target.name, branch=target.revision, exist_ok=True)
        before = api.model_info(target.name, revision=target.revision).sha
    if not force and not (target.revision and before == main):
        _check_target(api, HubRepository(target.name, before), code, target.label)
    done: Any = api.upload_folder(
        repo_id=target.name,
        folder_path=folder,
        revision=target.revision,
        commit_message=f"bsszoo: {code}",
        # A push at the same time is not overwritten.
        parent_commit=before,
        # A card about a search that is no longer there would mislead.
        delete_patterns=[file for file in FILES if file not in files],
    )
    return done, str(before)


def _target(repository: str, revision: str | None) -> HubRepository:
    text = repository.removeprefix("hf-hub:") + (f"@{revision}" if revision is not None else "")
    try:
        target = HubRepository.parse(text)
    except WeightsError:
        target = HubRepository("")
    if "/" not in target.name or (revision is not None and "@" in repository):
        raise SettingsError(
            f"{repository!r}"
            + (f" with revision {revision!r}" if revision is not None else "")
            + " names no repository to push to: give ORG/NAME, of letters, digits, '-', '_' and '.', "
            "and a branch with --revision."
        )
    return target


def _make(api: HfApi, target: HubRepository, *, private: bool, user: str) -> None:
    """Make the repository if it does not exist."""
    owner = target.name.partition("/")[0]
    try:
        api.create_repo(target.name, private=private, exist_ok=True)
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", 0)
        if status in (401, 403):
            raise SettingsError(
                f"The user {user!r} may not make or write repositories of {owner!r}. Push to {user}/"
                f"{target.name.partition('/')[2]}, ask for the right to write, or log in as another "
                "user with `hf auth login`."
            ) from None
        raise


def _check_target(api: HfApi, target: HubRepository, code: Code, label: str) -> None:
    """A ``SettingsError`` where the repository holds another network, or files that are no network of bsszoo."""
    try:
        path = hf_hub_download(target.name, CONFIG, revision=target.revision, token=api.token)
    except EntryNotFoundError:
        files = {f.path for f in api.list_repo_tree(target.name, revision=target.revision)} - _BARE
        if files:
            raise SettingsError(
                f"{label} holds other files ({', '.join(sorted(files)[:3])}) and no network of "
                "bsszoo's. Give another name, or --force to write into it."
            ) from None
        return
    try:
        held = code_in(Path(path), label)
    except WeightsError:
        raise SettingsError(
            f"{label} holds a network that is none of bsszoo's. Give another name, or --force to overwrite it."
        ) from None
    if not same_network(held, code):
        raise SettingsError(
            f"{label} holds the code {held}, and this is {code}. Give another name, a "
            "branch with --revision, or --force to overwrite it."
        )

"""One file of a Hugging Face Hub repository: from the Hub, else from the cache, else one clear error."""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, overload

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from bsszoo.errors import WeightsError
from bsszoo.texts import one_line

# A full or read-only disk, and a path that cannot be written.
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_DISK: Final = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EIO, errno.ENAMETOOLONG)
_log = logging.getLogger(__name__)

#: The weights in a repository or a folder.
WEIGHTS_FILE: Final = "model.safetensors"
#: Weights that are no safetensors: a pickle runs what it likes when it is opened.
PICKLES: Final = ("pytorch_model.bin", "model.pth", "model.pt")
# A name, and a branch, tag or commit, that can leave neither its folder in the cache nor its part of an address.
_NAME: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_-])?")
_REVISION: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")


@dataclass(frozen=True, slots=True)
class HubRepository:
    """A Hub repository ``org/name`` and a revision (branch, tag or commit; None for the main branch).

    ``commit`` is what the revision resolved to, so that several files come from one commit.
    """

    name: str
    revision: str | None = None
    commit: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubRepository:
        """The repository that ``org/name`` or ``org/name@revision`` means; a ``WeightsError`` for anything else."""
        name, at, revision = text.partition("@")
        parts = name.split("/")
        fits = len(parts) <= 2 and all(_NAME.fullmatch(p) and ".." not in p for p in parts)
        if not fits or (at and not (_REVISION.fullmatch(revision) and ".." not in revision)):
            raise WeightsError(
                f"{text!r} names no Hub repository; allowed is 'hf-hub:org/name' or "
                "'hf-hub:org/name@revision', of letters, digits, '-', '_' and '.'."
            )
        return cls(name, revision or None)

    @property
    def at(self) -> str | None:
        """The commit, else the revision, that files are requested at."""
        return self.commit or self.revision

    @property
    def text(self) -> str:
        """``org/name`` or ``org/name@revision``."""
        return f"{self.name}@{self.revision}" if self.revision else self.name

    @property
    def label(self) -> str:
        """The repository as a source: ``hf-hub:org/name``."""
        return f"hf-hub:{self.text}"


@overload
def hub_file(
    repository: HubRepository,
    names: Sequence[str],
    *,
    cache_dir: str | Path | None,
    advice: str,
    what: str = "weights",
    missing_ok: Literal[False] = False,
) -> Path: ...
@overload
def hub_file(
    repository: HubRepository,
    names: Sequence[str],
    *,
    cache_dir: str | Path | None,
    advice: str,
    what: str = "weights",
    missing_ok: bool,
) -> Path | None: ...
def hub_file(
    repository: HubRepository,
    names: Sequence[str],
    *,
    cache_dir: str | Path | None,
    advice: str,
    what: str = "weights",
    missing_ok: bool = False,
) -> Path | None:
    """The local path of the first of these files that a repository has.

    huggingface_hub repeats a request to an unreachable host for about 24 s; one request first checks whether the host
    answers, and when it does not, only the cache is used.

    Args:
        repository: Where.
        names: File names, the preferred one first.
        cache_dir: The cache; huggingface_hub's by default.
        advice: What to do without the file: the end of the error's text.
        what: What the files are, for the error's text.
        missing_ok: None instead of an error when the repository has none of them; not when the host cannot be reached.

    Raises:
        WeightsError: No such repository, revision or file, no access, or neither host nor cache has it.
    """
    trouble = ""
    for name in names:
        try:
            trouble = _trouble(repository, name)
            if not trouble:
                return Path(hf_hub_download(repository.name, name, revision=repository.at, cache_dir=cache_dir))
        except EntryNotFoundError:
            continue
        except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
            raise _refused(
                repository, error, f"There are no {what}" if what == "weights" else f"There is no {what}", advice
            ) from error
        except WeightsError:
            raise
        except Exception as error:  # the host broke off after it had answered, or the cache cannot be written
            disk = disk_error(error)
            if disk is not None and not _cached(repository, name, cache_dir):
                raise WeightsError(f"{repository.label} cannot be stored: {cache_advice(disk, cache_dir)}") from error
            trouble = first_line(error)
        if cached := _cached(repository, name, cache_dir):
            _log.warning("%s: %s; using the copy in the cache.", constants.ENDPOINT, trouble)
            return cached
    if missing_ok and not trouble:
        return None
    if trouble:
        raise WeightsError(
            f"Cannot fetch {repository.label}: {constants.ENDPOINT} cannot be reached ({trouble}), and "
            f"the cache has no copy. Check the connection or HF_ENDPOINT and try again. {advice}"
        )
    if what == "weights" and (pickle := _pickle(repository)):
        raise WeightsError(
            f"{repository.label} holds its weights as {pickle}, a pickle, which can run any program "
            f"when it is opened: only {WEIGHTS_FILE} is taken from a repository. Ask its owner for "
            f"safetensors, or convert it where you trust it. {advice}"
        )
    raise WeightsError(f"{repository.label} has no {what}: it holds none of {', '.join(names)}. {advice}")


def _refused(repository: HubRepository, error: Exception, what: str, advice: str) -> WeightsError:
    """The error for a refusal by the Hub: no access, no such repository, no such revision."""
    if isinstance(error, GatedRepoError):
        return WeightsError(
            f"Access to {repository.label} is restricted. Ask for it on its page, log in with "
            f"`hf auth login` and try again. {advice}"
        )
    if isinstance(error, RepositoryNotFoundError):
        return WeightsError(
            f"{what} at {repository.label}: the Hub ({constants.ENDPOINT}) has no such repository, or "
            f"it is private and you are not logged in. {advice}"
        )
    if isinstance(error, RevisionNotFoundError):
        return WeightsError(f"{repository.label}: the repository has no revision {repository.revision!r}. {advice}")
    return WeightsError(f"{repository.label} names no Hub repository: {error}")


def disk_error(error: BaseException) -> OSError | None:
    """The error of this machine's file system behind an error; None where the connection or the host is at fault."""
    seen: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in seen:
        seen.append(at)
        if (
            isinstance(at, OSError)
            and not isinstance(at, (ConnectionError, TimeoutError))
            and (at.errno in _FULL or (at.errno in _DISK and at.filename is not None))
        ):
            return at
        at = at.__cause__ or at.__context__
    return None


def cache_advice(error: OSError, cache_dir: str | Path | None = None) -> str:
    """A text about a cache that cannot be written, and what to do."""
    where = Path(cache_dir) if cache_dir is not None else Path(constants.HF_HUB_CACHE)
    return (
        f"the Hub's cache, {where}, cannot be written ({error.strerror or first_line(error)}"
        f"{'' if error.filename is None else f': {one_line(error.filename)}'}). Make room there or give the right "
        "to write, or take another folder: the environment variable HF_HOME, or cache_dir= in Python."
    )


def forget(path: Path) -> None:
    """Remove a file from the Hub's cache, with the blob that it links to, so that it is fetched again."""
    data = path.resolve()
    path.unlink(missing_ok=True)
    # In the cache a file is a link to its data, which are in `blobs` under their checksum.
    if data != path and data.parent.name == "blobs":
        data.unlink(missing_ok=True)


def _trouble(repository: HubRepository, name: str) -> str:
    """Why the host cannot serve the file, empty if it can; raises the host's errors about the repository."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_hf_file_metadata(
            hf_hub_url(repository.name, name, revision=repository.at), timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError, HFValidationError):
        raise
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403):
            raise WeightsError(
                f"The Hub ({constants.ENDPOINT}) does not let you read {repository.label} "
                f"({error.response.status_code}): log in with `hf auth login`, or set HF_TOKEN to a "
                "token that may."
            ) from error
        return first_line(error)
    except Exception as error:  # the HTTP library behind huggingface_hub has changed before: no narrower class lasts
        return first_line(error)
    return ""


def _pickle(repository: HubRepository) -> str | None:
    for name in PICKLES:
        try:
            if not _trouble(repository, name):
                return name
        except EntryNotFoundError:
            continue
    return None


def _cached(repository: HubRepository, name: str, cache_dir: str | Path | None) -> Path | None:
    try:
        return Path(
            hf_hub_download(repository.name, name, revision=repository.at, cache_dir=cache_dir, local_files_only=True)
        )
    except LocalEntryNotFoundError:
        return None


def first_line(error: Exception) -> str:
    """An error in one line, safe to print: a server's answer may be part of it."""
    text = str(error).strip()
    return f"{type(error).__name__}: {one_line(text.splitlines()[0])}" if text else type(error).__name__

"""One file of a Hugging Face Hub repository: from the Hub, else from the cache, else one clear error."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from bsszoo.errors import WeightsError

_log = logging.getLogger(__name__)

#: Names of weights files in a repository or folder, the preferred one first.
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True, slots=True)
class HubRepository:
    """A Hub repository ``org/name`` and a revision (branch, tag or commit; None for the main branch)."""

    name: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubRepository:
        """The repository that ``org/name`` or ``org/name@revision`` means; a ``WeightsError`` for anything else."""
        name, at, revision = text.partition("@")
        if not name or name.count("/") > 1 or (at and not revision):
            raise WeightsError(f"{text!r} names no Hub repository; allowed is 'hf-hub:org/name' or "
                               "'hf-hub:org/name@revision'.")
        return cls(name, revision or None)

    @property
    def text(self) -> str:
        """``org/name`` or ``org/name@revision``."""
        return f"{self.name}@{self.revision}" if self.revision else self.name

    @property
    def label(self) -> str:
        """The repository as a person gives it: ``hf-hub:org/name``."""
        return f"hf-hub:{self.text}"


@overload
def hub_file(repository: HubRepository, names: Sequence[str], *, cache_dir: str | Path | None, advice: str,
             missing_ok: Literal[False] = False) -> Path: ...
@overload
def hub_file(repository: HubRepository, names: Sequence[str], *, cache_dir: str | Path | None, advice: str,
             missing_ok: bool) -> Path | None: ...
def hub_file(
    repository: HubRepository, names: Sequence[str], *, cache_dir: str | Path | None, advice: str,
    missing_ok: bool = False,
) -> Path | None:
    """The local path of the first of these files that a repository has.

    huggingface_hub repeats a request to an unreachable host for about 24 s; one request first tells whether the host
    answers, and when it does not, only the cache is asked.

    Args:
        repository: Where.
        names: File names, the preferred one first.
        cache_dir: The cache; huggingface_hub's own by default.
        advice: What a person can do without the file: the end of the error's text.
        missing_ok: None instead of an error when the repository, or an unreachable one's cache, has none of them.

    Raises:
        WeightsError: No such repository, revision or file, no access, or neither host nor cache has it.
    """
    trouble = ""
    for name in names:
        try:
            trouble = _trouble(repository, name)
            if not trouble:
                return Path(hf_hub_download(repository.name, name, revision=repository.revision, cache_dir=cache_dir))
        except GatedRepoError as error:
            raise WeightsError(f"Access to {repository.label} is restricted. Ask for it on its page, log in with "
                               f"`hf auth login` and try again. {advice}") from error
        except RepositoryNotFoundError as error:
            raise WeightsError(f"There are no weights at {repository.label}: the Hub ({constants.ENDPOINT}) has no "
                               f"such repository, or it is private and you are not logged in. {advice}") from error
        except RevisionNotFoundError as error:
            raise WeightsError(f"{repository.label}: the repository has no revision {repository.revision!r}. "
                               f"{advice}") from error
        except EntryNotFoundError:
            continue
        except HFValidationError as error:
            raise WeightsError(f"{repository.label} names no Hub repository: {error}") from error
        except Exception as error:  # the host broke off after it had answered
            trouble = _first_line(error)
        if cached := _cached(repository, name, cache_dir):
            _log.warning("%s: %s; using the copy in the cache.", constants.ENDPOINT, trouble)
            return cached
    if missing_ok:
        return None
    if trouble:
        raise WeightsError(f"Cannot fetch {repository.label}: {constants.ENDPOINT} cannot be reached ({trouble}), and "
                           f"the cache has no copy. Check the connection or HF_ENDPOINT and try again. {advice}")
    raise WeightsError(f"{repository.label} has no weights: it holds none of {', '.join(names)}. {advice}")


def _trouble(repository: HubRepository, name: str) -> str:
    """Why the host cannot be asked for the file, or nothing; raises what the host answers about the repository."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_hf_file_metadata(hf_hub_url(repository.name, name, revision=repository.revision),
                             timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError, HFValidationError):
        raise
    except Exception as error:  # the HTTP library behind huggingface_hub has changed before: no narrower class lasts
        return _first_line(error)
    return ""


def _cached(repository: HubRepository, name: str, cache_dir: str | Path | None) -> Path | None:
    try:
        return Path(hf_hub_download(repository.name, name, revision=repository.revision, cache_dir=cache_dir,
                                    local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__

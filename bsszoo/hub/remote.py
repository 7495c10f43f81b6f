"""The Hub's client: the user, whether the Hub is reachable, and its refusals as bsszoo's errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from huggingface_hub import HfApi, constants, get_session, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from bsszoo.errors import BssZooError, RunError, SettingsError
from bsszoo.models.hub_files import HubRepository, disk_error, first_line
from bsszoo.texts import one_line
from bsszoo.version import __version__

_LOG_IN: Final = (
    "Log in with `hf auth login`, or set HF_TOKEN to a token that may write. Tokens are made on the "
    "Hub's page Settings, Access Tokens."
)


def hub_api(token: str | None) -> HfApi:
    """The client, with ``token`` or that of the environment or of ``hf auth login``."""
    return HfApi(token=token or get_token() or False, library_name="bsszoo", library_version=__version__)


def check_reachable() -> None:
    """Send the Hub one request; its client repeats a request to an unreachable host for about 24 s.

    Raises:
        RunError: It does not answer, or ``HF_HUB_OFFLINE`` is set.
    """
    if constants.HF_HUB_OFFLINE:
        raise RunError("HF_HUB_OFFLINE is set, so the Hub is not contacted. Unset it and try again.")
    try:
        get_session().get(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:  # the HTTP library behind the client has changed before: no narrower class lasts
        raise RunError(
            f"The Hub ({constants.ENDPOINT}) cannot be reached ({first_line(error)}). Check the connection "
            "or HF_ENDPOINT and run the same command again."
        ) from error


def who(api: HfApi) -> str:
    """The name of the user that the token is of.

    Raises:
        SettingsError: There is no token, or the Hub rejects it.
    """
    if not api.token:
        raise SettingsError(f"You are not logged in to the Hub ({constants.ENDPOINT}). {_LOG_IN}")
    try:
        return str(api.whoami()["name"])
    except HfHubHTTPError as error:
        if status_of(error) in (401, 403):
            raise SettingsError(f"The Hub ({constants.ENDPOINT}) rejects your token. {_LOG_IN}") from None
        raise


@contextmanager
def in_words(repository: HubRepository, doing: str) -> Iterator[None]:
    """Turn refusals of the Hub and lost connections into bsszoo's errors; no token is in any of them.

    Args:
        repository: The repository, for the message.
        doing: The action, for the message: "push to", "read".
    """
    try:
        yield
    except BssZooError:
        raise
    except GatedRepoError as error:
        raise SettingsError(
            f"Access to {repository.label} is restricted. Ask for it on its page, and log in with `hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise SettingsError(
            f"There is no {repository.label} on the Hub ({constants.ENDPOINT}), or it is private and "
            f"your token may not read it. {_LOG_IN}"
        ) from error
    except RevisionNotFoundError as error:
        raise SettingsError(f"{repository.label}: the repository has no revision {repository.revision!r}.") from error
    except HFValidationError as error:
        raise SettingsError(f"{repository.label} names no Hub repository: {first_line(error)}") from error
    except HfHubHTTPError as error:
        status = status_of(error)
        if status in (401, 403):
            raise SettingsError(
                f"You may not {doing} {repository.label} ({status} from {constants.ENDPOINT}). {_LOG_IN}"
            ) from None
        raise RunError(
            f"The Hub ({constants.ENDPOINT}) did not let us {doing} {repository.label}: "
            f"{first_line(error)}. Run the same command again."
        ) from error
    except Exception as error:
        if (disk := disk_error(error)) is not None:
            named = f"{one_line(disk.filename)} cannot be read or written" if disk.filename else "A disk takes no more"
            raise RunError(
                f"{named}: {disk.strerror or first_line(disk)}. Nothing was changed. The Hub's cache is "
                f"{constants.HF_HUB_CACHE}; the environment variable HF_HOME takes another."
            ) from error
        raise RunError(
            f"The connection broke off: could not {doing} {repository.label} at {constants.ENDPOINT} "
            f"({first_line(error)}). Nothing is left half done; run the same command again."
        ) from error


def status_of(error: HfHubHTTPError) -> int:
    """The HTTP status of a refusal; 0 where there was no answer."""
    return 0 if error.response is None else int(error.response.status_code)

"""The Optuna study of a run: in its folder, in a storage that other studies use too, or shared by several machines."""

from __future__ import annotations

import hashlib
import secrets
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bsszoo.compression.folder import CONTROLS, default_storage, differences, read_json, scores_in, write_json
from bsszoo.errors import BssZooError, SettingsError
from bsszoo.study.leases import Lease
from bsszoo.study.loop import SearchPlan
from bsszoo.study.storages import DAMAGE, StudyAddress, check_readable, first_line, masked, open_storage

if TYPE_CHECKING:
    from optuna.study import Study

    from bsszoo.search.sampler import Mode

__all__ = ["Sharing", "open_study", "share_controls", "shared_controls"]

_SETTINGS, _CONTROLS, _FOLDER = "settings", "controls", "folder"
# Where a folder's study is, and under which name, may differ among the machines that share it.
_LOCATION: Final = ("storage", "study")
# Seconds that a process waits for the one that made a study to write its settings.
_NEW_STUDY_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Sharing:
    """How a run is spread: its storage, the name of a study that several machines share, and processes on this one.

    Raises:
        SettingsError: A name without a storage, or a number of workers below 1.
    """

    storage: str | None = None
    study: str | None = None
    workers: int = 1
    grace: float = 60.0

    def __post_init__(self) -> None:
        if self.study is not None and self.storage is None:
            raise SettingsError(
                f"--study is {self.study!r} without --storage: machines that share a study need a "
                "storage that all of them reach, e.g. --storage postgresql://user@host/database."
            )
        if self.study is not None and not 0 < len(self.study.strip()) <= 200:
            raise SettingsError(f"--study is {self.study!r}; it takes a name of 1 to 200 characters.")
        if not isinstance(self.workers, int) or isinstance(self.workers, bool) or not 1 <= self.workers <= 1000:
            raise SettingsError(f"--workers is {self.workers!r}; it takes a number of processes from 1 to 1000.")
        Lease(self.grace)  # checks the grace time

    def reach(self) -> None:
        """Open the storage once, so that a wrong URL is reported before anything that takes time.

        A file that is not there yet is not made: a run that then cannot begin leaves nothing behind.

        Raises:
            SettingsError: The storage cannot be opened.
        """
        scheme, _, rest = (self.storage or "").partition(":///")
        file = Path("/" * (scheme == "journal") + rest.partition("?")[0])
        new = scheme in ("sqlite", "journal") and file.parent.is_dir() and not file.exists()
        if self.storage is not None and not new:
            open_storage(self.storage)

    @property
    def lease(self) -> Lease | None:
        """None when the run is its study's only process."""
        return Lease(self.grace) if self.study is not None or self.workers > 1 else None


def open_study(
    sharing: Sharing, mode: Mode, search: SearchPlan, settings: Mapping[str, Any], folder: Path
) -> tuple[StudyAddress, Study]:
    """The study of a run, new or as earlier processes left it, and its address for further ones.

    In the folder's own SQLite file it is named ``bsszoo``, in a storage without a study's name after the
    folder's path, so that runs that share a storage do not share a study.

    Raises:
        SettingsError: The storage cannot be opened, or holds the study of other settings or of another folder.
    """
    import optuna
    from optuna.exceptions import DuplicatedStudyError, OptunaError
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = default_storage(folder) if sharing.storage is None else sharing.storage
    address = StudyAddress(url, _name(sharing, folder), int(settings["seed"]), mode)
    identity = {k: v for k, v in settings.items() if k not in _LOCATION}
    new = False
    try:
        storage = open_storage(url)
        try:
            # Only one process makes it, and that one writes its settings.
            optuna.create_study(storage=storage, study_name=address.name, direction="maximize")
            new = True
        except DuplicatedStudyError:
            pass
        study = address.open(search, storage)
        if new:
            study.set_user_attr(_SETTINGS, identity)
            _name_metric(study)
        check_readable(study, url)
    except BssZooError:
        raise
    except (SQLAlchemyError, OptunaError, OSError, *DAMAGE) as error:
        raise SettingsError(
            f"The storage {masked(url)} cannot be opened: {first_line(error, url)}. Nothing was "
            "removed. Restore a copy of it, or give another --out or --storage."
        ) from None
    _check(study, address, identity)
    if sharing.storage is not None and sharing.study is None:
        _check_folder(study, folder, new=new)
    return address, study


def _name_metric(study: Study) -> None:
    """Set the value's name in Optuna's dashboard and plots, which is "Objective 0" otherwise."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(["score"])


def shared_controls(study: Study, folder: Path) -> None:
    """Copy the controls' scores from a shared study into the folder, where it has none."""
    scores = scores_in(study.user_attrs.get(_CONTROLS))
    if scores and not (folder / CONTROLS).exists():
        write_json(folder / CONTROLS, scores)


def share_controls(study: Study, folder: Path) -> None:
    """Copy this folder's scores of the controls into the shared study, where it has none."""
    scores = scores_in(read_json(folder / CONTROLS))
    if scores and not study.user_attrs.get(_CONTROLS):
        study.set_user_attr(_CONTROLS, scores)


def _name(sharing: Sharing, folder: Path) -> str:
    if sharing.study is not None:
        return sharing.study
    if sharing.storage is None:
        return "bsszoo"
    fingerprint = hashlib.sha256(str(folder.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"bsszoo_{folder.name}_{fingerprint}"


def _check(study: Study, address: StudyAddress, identity: Mapping[str, Any]) -> None:
    deadline = time.monotonic() + _NEW_STUDY_SECONDS
    while (earlier := study.user_attrs.get(_SETTINGS)) is None and time.monotonic() < deadline:
        time.sleep(0.2)
    if earlier is None:
        # The process that made it was killed in between, or it was made by hand.
        if study.get_trials(deepcopy=False):
            raise SettingsError(
                f"The study {address.name!r} in {masked(address.storage)} holds trials that are not of "
                "bsszoo. Give another --study."
            )
        study.set_user_attr(_SETTINGS, dict(identity))
        earlier = identity
    if not isinstance(earlier, dict):
        raise SettingsError(
            f"The study {address.name!r} in {masked(address.storage)} is not of bsszoo: its settings "
            "are none. Give another --study or --out."
        )
    if differ := differences(earlier, identity):
        raise SettingsError(
            f"The study {address.name!r} in {masked(address.storage)} is a search with other settings: "
            f"{differ}. Give the same settings to join it, or another --study or --out."
        )


def _check_folder(study: Study, folder: Path, *, new: bool) -> None:
    """Two machines whose folders have the same path must not both use one study without sharing it."""
    file = folder / ".study.json"
    if new:
        identifier = secrets.token_hex(8)
        write_json(file, {"mark": identifier})
        study.set_user_attr(_FOLDER, identifier)
        return
    identifier = (read_json(file) or {}).get("mark", "")
    if study.user_attrs.get(_FOLDER, identifier) != identifier:
        raise SettingsError(
            f"The study {study.study_name!r} is that of a folder of the same path on another machine. "
            "To search together give both the same --study NAME; else give another --out."
        )

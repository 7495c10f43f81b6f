"""The Optuna study of a run, in its own folder or in a storage that others share."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bsszoo.compression.folder import default_storage
from bsszoo.errors import SettingsError
from bsszoo.search.study import SearchPlan

if TYPE_CHECKING:
    from optuna.study import Study


def open_study(storage: str | None, search: SearchPlan, settings: Mapping[str, Any], folder: Path) -> Study:
    """The study of a run, new or as an earlier process left it.

    In the folder's own SQLite file it is named ``bsszoo``, elsewhere after the folder's path, so that runs that share a
    storage do not share a study.

    Raises:
        SettingsError: The storage cannot be opened, or holds the study of other settings.
    """
    import optuna
    from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError

    from bsszoo.search.sampler import AutoBSSSampler

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = AutoBSSSampler(search.candidates, batch_size=search.batch_size, seed=settings["seed"])
    place = hashlib.sha256(str(folder.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    name = "bsszoo" if storage is None else f"bsszoo_{folder.name}_{place}"
    url = default_storage(folder) if storage is None else storage
    for attempt in range(3):
        try:
            study = optuna.create_study(storage=url, study_name=name, sampler=sampler, direction="maximize",
                                        load_if_exists=True)
            earlier = study.user_attrs.get("settings")
            if earlier is None:
                study.set_user_attr("settings", dict(settings))
            break
        except IntegrityError:
            # Two processes that create the tables of one storage in the same instant: the second finds them made.
            if attempt == 2:
                raise
            time.sleep(0.5)
        except (SQLAlchemyError, ValueError, ImportError, OSError) as error:
            text = str(error).splitlines()[0]
            unread = isinstance(error, (ArgumentError, NoSuchModuleError, ImportError))
            hint = " Give an Optuna storage URL such as sqlite:///search.db." if unread else ""
            raise SettingsError(f"The storage {shown(url)} cannot be opened: {text}.{hint}") from None
    if earlier is not None and earlier != dict(settings):
        raise SettingsError(f"The study {name!r} in {shown(url)} is a search with other settings; give another --out.")
    return study


def shown(storage: str) -> str:
    """A storage URL as it may be shown and written: without its password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(storage).render_as_string(hide_password=True)
    except ArgumentError:
        return storage

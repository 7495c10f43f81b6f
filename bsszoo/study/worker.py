"""A worker: a process that joins a study and evaluates codes until no more are wanted; ``study/workers.py`` starts it.

Its arguments are the file that holds the search, its name, and the number of the trial that it resumes first, if any.
Beside that file it writes one of its name: empty when it begins to work, and the reason when it ends by an error.
"""

from __future__ import annotations

import logging
import os
import pickle
import runpy
import shutil
import signal
import sys
import threading
import traceback
import types
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from optuna.trial import TrialState

from bsszoo.study import workers
from bsszoo.study.leases import Heartbeat, owner
from bsszoo.study.loop import evaluate, survived, work_once
from bsszoo.study.storages import first_line

if TYPE_CHECKING:
    from optuna.study import Study


def main() -> None:
    """Run the worker that ``sys.argv`` describes."""
    # Ctrl-C reaches every process of a terminal; the parent decides how this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    file, name, numbers = Path(sys.argv[1]), sys.argv[2], [int(number) for number in sys.argv[3:]]
    # The standard input ends with the process that started this one, so no evaluator may read it.
    parent = workers.taken_input()
    studies: list[Study] = []
    threading.Thread(target=_end_with, args=(parent, file, name, studies), daemon=True).start()
    with file.open("rb") as search:
        sys.argv, script, address, lease = pickle.load(search)
        if script is not None:
            _load(*script)
        # The parent logs for all of them that a storage is away.
        logging.getLogger("bsszoo.study").setLevel(logging.ERROR)
        beside = file.with_name(name)
        try:
            plan = pickle.load(search)
            study = address.open(plan)
            studies.append(study)
            beside.touch()
            with Heartbeat(study, plan.candidates.names, lease, name) as heartbeat:
                for trial in study.get_trials(deepcopy=False):
                    if trial.number in numbers:
                        evaluate(study, plan, trial, heartbeat)
                while work_once(study, plan, heartbeat):
                    pass
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            why = f"{type(error).__name__}: {first_line(error, address.storage)} ({where.filename}:{where.lineno})"
            with suppress(OSError):
                beside.write_text(why, encoding="utf-8", errors="backslashreplace")
            sys.exit(1)


def _load(kind: str, where: str) -> None:
    """Run the script that started the search, for what the evaluator is made of; as ``multiprocessing`` would."""
    workers.loading_script = True
    if kind == "module":
        names = runpy.run_module(where, run_name="__mp_main__", alter_sys=True)
    else:
        names = runpy.run_path(where, run_name="__mp_main__")
    workers.loading_script = False
    module = types.ModuleType("__mp_main__")
    module.__dict__.update(names)
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module


def _end_with(parent: int, file: Path, name: str, studies: list[Study]) -> None:
    """End this process with the one at the other end of a pipe: a new run takes over the code that it evaluates."""
    with suppress(OSError):
        while os.read(parent, 1):
            pass
    end = threading.Timer(workers.LAST_SECONDS, os._exit, (1,))
    end.daemon = True
    end.start()
    with suppress(Exception):
        shutil.rmtree(file.parent, ignore_errors=True)
        for study in studies:
            running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            survived(study, [t for t in running if owner(t) == name])
    os._exit(1)

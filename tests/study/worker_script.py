"""A search by worker processes, as a program: ``python worker_script.py URL WORKERS TRIALS GRACE SEEN SECONDS alone``.

Its evaluator appends each code to the file SEEN as it begins, and takes SECONDS. With HOLD=N:FILE in the environment
those from the Nth on wait until there is the FILE, so that a test decides when they end; with DIES=L1 codes of so many
blocks in their first stage kill the process. WORKERS 0 is ``run_search``, in this process. Prints the codes of the
result.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from bsszoo.evaluators import FunctionEvaluator

SEEN, SECONDS = (sys.argv[5], float(sys.argv[6])) if len(sys.argv) > 6 else ("", 0.0)


def judge(code):
    """Blocks, and a little width."""
    out = os.open(SEEN, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(out, f"{code} {os.getpid()}\n".encode())
    os.close(out)
    number, _, file = os.environ.get("HOLD", "").partition(":")
    if file and Path(SEEN).read_text().count("\n") >= int(number):
        while not Path(file).exists():
            time.sleep(0.02)
    if os.environ.get("DIES") == str(code.depths[0]):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(SECONDS)
    return sum(code.depths) + code.widths[0] / 1000


class Padded(FunctionEvaluator):
    """Larger than a pipe: a process that dies before it has read all of it must not hang the one that sends it."""

    def __init__(self, function) -> None:
        super().__init__(function)
        self.padding = bytes(300_000)


def main() -> None:
    import numpy as np
    import optuna

    from bsszoo.search import CandidateSet
    from bsszoo.spaces import Space
    from bsszoo.study import Lease, SearchPlan, StudyAddress, open_storage, run_search, run_workers, trial_rows

    url, workers, trials, grace = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    space = Space.of("resnet18")
    codes = [
        (64, 128, 256, w, 2 + w // 64 % 2, d, e, f)
        for w in range(384, 641, 64)
        for d in (1, 2, 3, 4)
        for e in range(1, 9)
        for f in (1, 2, 3, 4)
    ]
    candidates = CandidateSet(np.array(codes), names=("C1", "C2", "C3", "C4", "L1", "L2", "L3", "L4"))
    # As many dispersed first codes as trials: what is tested is who takes which code, not the Gaussian process.
    plan = SearchPlan(space, candidates, Padded(judge), trials, trials)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna.create_study(storage=open_storage(url), study_name="s", direction="maximize", load_if_exists=True)
    address, alone = StudyAddress(url, "s", 0), sys.argv[7] == "alone"
    if workers:
        run_workers(address, plan, lambda _: None, workers=workers, lease=Lease(grace), alone=alone)
    else:
        run_search(address.open(plan), plan, lambda _: None, lease=None if alone else Lease(grace))
    study = address.open(plan)
    for row in trial_rows(study, plan):
        print("ROW", row.code, row.state, row.error)


if __name__ == "__main__":
    main()

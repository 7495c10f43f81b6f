"""A search by worker processes, as a program: ``python worker_script.py URL WORKERS TRIALS GRACE SEEN SECONDS alone``.

Its evaluator appends each code to the file SEEN as it begins, and takes SECONDS. Prints the codes of the result.
"""

from __future__ import annotations

import os
import sys
import time

SEEN, SECONDS = (sys.argv[5], float(sys.argv[6])) if len(sys.argv) > 6 else ("", 0.0)


def judge(code):
    """Blocks, and a little width."""
    out = os.open(SEEN, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(out, f"{code} {os.getpid()}\n".encode())
    os.close(out)
    time.sleep(SECONDS)
    return sum(code.depths) + code.widths[0] / 1000


def main() -> None:
    import numpy as np
    import optuna

    from bsszoo.codes import Space
    from bsszoo.search import CandidateSet
    from bsszoo.study import FunctionEvaluator, Lease, SearchPlan, StudyAddress, open_storage, run_workers, trial_rows

    url, workers, trials, grace = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    space = Space.of("resnet18")
    codes = [(64, 128, 256, w, 2, d, e, f) for w in range(384, 641, 64) for d in (1, 2, 3, 4) for e in range(1, 9)
             for f in (1, 2, 3, 4)]
    candidates = CandidateSet(np.array(codes), names=("C1", "C2", "C3", "C4", "L1", "L2", "L3", "L4"))
    # As many dispersed first codes as trials: what is tested is who takes which code, not the Gaussian process.
    plan = SearchPlan(space, candidates, FunctionEvaluator(judge), trials, trials)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna.create_study(storage=open_storage(url), study_name="s", direction="maximize", load_if_exists=True)
    address = StudyAddress(url, "s", 0)
    run_workers(address, plan, lambda _: None, workers=workers, lease=Lease(grace), alone=sys.argv[7] == "alone")
    study = address.open(plan)
    for row in trial_rows(study, plan):
        print("ROW", row.code, row.state)


if __name__ == "__main__":
    main()

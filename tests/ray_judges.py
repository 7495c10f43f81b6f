"""Evaluators for searches in a real Ray cluster, which its processes import; and such a search as a program.

``python ray_judges.py ADDRESS FOLDER TRIALS MOST``: the study and what the evaluator leaves are in FOLDER.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bsszoo.evaluators.base import tell
from bsszoo.search import CandidateSet
from bsszoo.spaces import Space
from bsszoo.study import SearchPlan, StudyAddress

SPACE = Space.of("resnet18")
CODES = [(64, 128, 256, 512, a, b, c, d) for a in (1, 2, 3) for b in (1, 2, 3) for c in (1, 2, 3, 4) for d in (1, 2, 3)]
CANDIDATES = CandidateSet(np.array(CODES), names=SPACE.entry_names)
#: A hang guard [s].
LONG = 300


def until(true):
    """Wait until something is true."""
    deadline = time.monotonic() + LONG
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.02)


@dataclass(frozen=True)
class Judge:
    """Blocks, and a little width; each evaluation leaves a line in ``seen``: its code, process and node.

    ``holds`` names what is waited for: ``nodes=2``, until evaluations have begun on so many nodes; ``from=3`` from the
    third evaluation on a file ``go``; ``node`` on the node whose name is in the file ``late`` the file ``go``.
    """

    folder: Path
    holds: str = ""
    dies: int = 0
    raises: int = 0

    def seen(self):
        """Each evaluation that began."""
        file = self.folder / "seen"
        return [tuple(line.split()) for line in file.read_text().splitlines()] if file.exists() else []

    def nodes(self):
        """The nodes on which some began."""
        return {node for _, _, node in self.seen()}

    def __call__(self, code):
        """The score."""
        import ray

        node = ray.get_runtime_context().get_node_id()
        what, _, number = self.holds.partition("=")
        go, late = self.folder / "go", self.folder / "late"
        try:
            out = os.open(self.folder / "seen", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(out, f"{code} {os.getpid()} {node}\n".encode())
            os.close(out)
            if what == "nodes":
                until(lambda: len(self.nodes()) >= int(number))
            elif what == "late":
                # Until the node has joined; on that node until the file is there.
                until(lambda: late.exists() and late.read_text() in self.nodes())
                if late.read_text() == node:
                    until(go.exists)
            elif what == "from" and len(self.seen()) >= int(number):
                until(go.exists)
        except KeyboardInterrupt:
            (self.folder / f"interrupted-{os.getpid()}").touch()
            raise
        if self.dies == code.depths[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.raises == code.depths[0]:
            raise ValueError(f"no {code.depths[0]} blocks, please")
        return sum(code.depths) + code.depths[1] / 10


def climbing(code, trial):
    """Worth after three rungs."""
    for rung in range(3):
        trial.report(at_rung(code, rung), rung)
        if rung < 2 and trial.should_stop():
            break
    return at_rung(code, 3)


def at_rung(code, rung):
    """What a code is worth after a rung."""
    noise = (7 * code.depths[0] + 5 * code.depths[1] + 3 * code.depths[2]) % 11
    return code.depths[0] + 2 * code.depths[1] + 0.1 * code.depths[2] + noise / 2 ** (rung + 1)


def telling(number, folder):
    """A training of so many updates; 1 fails, 2 dies, others say what they were given."""
    if number == 1:
        raise RuntimeError("no memory left")
    if number == 2:
        os._exit(3)
    tell(1, 4)
    until((folder / "heard").exists)
    return number, os.environ["OMP_NUM_THREADS"], os.environ.get("CUDA_VISIBLE_DEVICES")


def plan(judge, trials=12, batch=6):
    """A search."""
    from bsszoo.evaluators import FunctionEvaluator

    return SearchPlan(SPACE, CANDIDATES, FunctionEvaluator(judge, name="judge"), trials, batch)


def study_of(folder, search):
    """The study in a folder, made where it is not there."""
    import optuna

    from bsszoo.study import open_storage

    url = f"sqlite:///{folder / 'study.db'}"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna.create_study(storage=open_storage(url), study_name="s", direction="maximize", load_if_exists=True)
    return StudyAddress(url, "s", 0).open(search)


def main():
    """A search in a cluster."""
    from bsszoo.study.ray_cluster import RayCluster, Resources
    from bsszoo.study.ray_search import run_on_ray

    address, folder, trials, most = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    search = plan(Judge(folder, "from=3"), trials)
    study = study_of(folder, search)
    with RayCluster(address, Resources(1)) as cluster:
        run_on_ray(study, search, lambda _: None, cluster, most=most or None)


if __name__ == "__main__":
    main()

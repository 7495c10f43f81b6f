"""Seconds that one ask takes on one core, and the memory it needs, beside Optuna's TPESampler and GPSampler.

    python benchmarks/ask_time.py --asks 15

Prints a Markdown table. A study gets so many finished trials, then each ask is timed and its result told, as one
worker does; every sampler runs in a process of its own, so that memory is its own. TPE and GPSampler suggest codes of
the whole box, most of which break a budget; ours judge the candidates, so their number is given for them. The median
hides the asks in which a model is fitted anew: the largest one is shown beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

# (candidates, finished trials)
SIZES = ((10_000, 64), (100_000, 256), (1_000_000, 1024))
SAMPLERS = ("default", "paper", "tpe", "gp")
TITLES = {"default": "bsszoo, default", "paper": "bsszoo, paper", "tpe": "Optuna TPESampler", "gp": "Optuna GPSampler"}
ENTRIES = 18


def measure(name: str, candidates: int, finished: int, asks: int, seconds: float) -> dict[str, float]:
    """Ask times of one sampler [s], in this process; stops early after so many seconds but not before two asks."""
    import numpy as np
    import optuna

    from bsszoo.search import AutoBSSSampler, CandidateSet

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rng = np.random.default_rng(0)
    codes = rng.integers(1, 13, size=(candidates, ENTRIES))
    macs = 1000 + codes @ rng.integers(1, 50, size=ENTRIES)
    gains = rng.gamma(1.0, 1.0, size=ENTRIES)
    start = time.perf_counter()
    made = CandidateSet(codes, macs=macs, params=macs + rng.integers(0, 500, size=candidates))
    del codes, macs
    sampler: optuna.samplers.BaseSampler
    if name == "tpe":
        sampler = optuna.samplers.TPESampler(seed=0)
    elif name == "gp":
        sampler = optuna.samplers.GPSampler(seed=0)
    else:
        sampler = AutoBSSSampler(made, mode="paper" if name == "paper" else "default", seed=0)
    setup = time.perf_counter() - start

    def result(code: object) -> float:
        return float(np.log(np.asarray(code, dtype=float)) @ gains + 0.2 * rng.normal())

    study = optuna.create_study(direction="maximize", sampler=sampler)
    distributions = made.distributions
    for row in rng.choice(len(made), finished, replace=False):
        code = made.codes[row].tolist()
        study.add_trial(
            optuna.trial.create_trial(
                params=dict(zip(made.names, code, strict=True)), distributions=distributions, value=result(code)
            )
        )
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < asks + 1 and (len(times) < 3 or time.perf_counter() - begun < seconds):
        start = time.perf_counter()
        trial = study.ask(fixed_distributions=distributions)
        times.append(time.perf_counter() - start)
        study.tell(trial, result([trial.params[n] for n in made.names]))
    # The first ask also makes what is kept (the candidates' features, the first fit).
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "median": statistics.median(times[1:]),
        "largest": max(times),
        "asks": len(times) - 1,
        "setup": setup,
        "peak": peak,
    }


def run_apart(name: str, candidates: int, finished: int, asks: int, seconds: float) -> dict[str, float]:
    """The same in a process with one thread."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [
        sys.executable,
        __file__,
        "--one",
        name,
        str(candidates),
        str(finished),
        "--asks",
        str(asks),
        "--seconds",
        str(seconds),
    ]
    done = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asks", type=int, default=15, help="asks timed for each row (default 15)")
    parser.add_argument("--seconds", type=float, default=120.0, help="stop a row early after so long (default 120)")
    parser.add_argument("--one", nargs=3, metavar=("SAMPLER", "CANDIDATES", "TRIALS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        name, candidates, finished = given.one
        print(json.dumps(measure(name, int(candidates), int(finished), given.asks, given.seconds)))
        return
    print(
        "| candidates | finished trials | sampler | median ask (s) | / ours | largest ask (s) | set-up (s) "
        "| peak memory of the process (MB) | asks |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for candidates, finished in SIZES:
        ours = 0.0
        for name in SAMPLERS:
            got = run_apart(name, candidates, finished, given.asks, given.seconds)
            ours = got["median"] if name == "default" else ours
            print(
                f"| {candidates:,} | {finished:,} | {TITLES[name]} | {got['median']:.3f} "
                f"| {got['median'] / ours:.2g} | {got['largest']:.2f} | {got['setup']:.2f} "
                f"| {1024 * got['peak']:.0f} | {got['asks']:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

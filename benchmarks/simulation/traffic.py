"""Real client processes on real storages: asks a second, calls, bytes, and how an ask grows with the study.

Evaluations take no time, so the clients do nothing but ask and tell. The candidates are 20,000 random codes of 18
entries with MACs and parameters.
"""

from __future__ import annotations

import multiprocessing
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import optuna
from optuna.trial import TrialState

from bsszoo.search import AutoBSSSampler, CandidateSet
from bsszoo.study.storages import open_storage
from simulation.counting import Watch, Work, bytes_written, log_written

CANDIDATES: Final = 20_000
ENTRIES: Final = 18
CLIENTS: Final = (1, 4, 8)
#: Finished trials before the clients begin: past the first iteration, so that every ask has a model.
BEFORE: Final = 64
#: (finished, running) trials of the studies whose asks are timed.
SIZES: Final = ((64, 0), (256, 0), (1024, 0), (256, 64), (256, 256))
_ASKS: Final = 12
_STUDY: Final = "study"
MEMORY, PROXY = "memory", "SQLite behind gRPC"
#: The storages by the words of the command line.
WORDS: Final = {
    "memory": MEMORY,
    "sqlite": "SQLite",
    "journal": "journal file",
    "postgresql": "PostgreSQL",
    "grpc": PROXY,
}

optuna.logging.set_verbosity(optuna.logging.ERROR)


def made_candidates() -> tuple[CandidateSet, np.ndarray[Any, np.dtype[np.float64]]]:
    """The candidates, the same in every process, and what each one gives."""
    rng = np.random.default_rng(0)
    codes = rng.integers(1, 13, size=(CANDIDATES, ENTRIES))
    macs = 1000 + codes @ rng.integers(1, 50, size=ENTRIES)
    values = np.log(codes) @ rng.gamma(1.0, 1.0, size=ENTRIES) + 0.2 * rng.normal(size=CANDIDATES)
    return CandidateSet(codes, macs=macs, params=macs + rng.integers(0, 500, size=CANDIDATES)), values


@dataclass(frozen=True)
class Served:
    """What one client saw: ``times`` are (wall, processor) seconds of its asks."""

    began: float
    ended: float
    times: list[tuple[float, float]]
    asking: Work
    telling: Work
    written: int | None


class Client:
    """A process's view of the study."""

    def __init__(self, storage: optuna.storages.BaseStorage) -> None:
        self.candidates, self.values = made_candidates()
        sampler = AutoBSSSampler(self.candidates, seed=0)
        self.study = optuna.load_study(study_name=_STUDY, storage=storage, sampler=sampler)
        self.watch = Watch(self.study._storage)

    def ask(self) -> optuna.Trial:
        """The next trial, with its code."""
        return self.study.ask(fixed_distributions=self.candidates.distributions)

    def tell(self, trial: optuna.Trial) -> None:
        """What the trial's code gives."""
        row = self.candidates.index(trial.params)
        assert row is not None
        self.study.tell(trial, float(self.values[row]))

    def serve(self, trials: int) -> Served:
        """Ask and tell so many trials."""
        times, asking, telling = [], Work(), Work()
        written, began = bytes_written(), time.time()
        for _ in range(trials):
            before, wall, processor = self.watch.read(), time.perf_counter(), time.process_time()
            trial = self.ask()
            times.append((time.perf_counter() - wall, time.process_time() - processor))
            between = self.watch.read()
            self.tell(trial)
            after = self.watch.read()
            asking, telling = _sum(asking, between - before), _sum(telling, after - between)
        now = bytes_written()
        return Served(
            began, time.time(), times, asking, telling, None if now is None or written is None else now - written
        )


def _sum(a: Work, b: Work) -> Work:
    return Work(a.calls + b.calls, a.statements + b.statements, a.seconds + b.seconds)


def fill(storage: optuna.storages.BaseStorage, finished: int, running: int = 0) -> None:
    """A new study with so many trials, in place of one that is there."""
    names = [s.study_name for s in optuna.get_all_study_summaries(storage, include_best_trial=False)]
    if _STUDY in names:
        optuna.delete_study(study_name=_STUDY, storage=storage)
    study = optuna.create_study(study_name=_STUDY, storage=storage, direction="maximize")
    candidates, values = made_candidates()
    for k, row in enumerate(np.random.default_rng(1).choice(len(candidates), finished + running, replace=False)):
        params = dict(zip(candidates.names, candidates.codes[row].tolist(), strict=True))
        state, value = (TrialState.COMPLETE, float(values[row])) if k < finished else (TrialState.RUNNING, None)
        study.add_trial(
            optuna.trial.create_trial(
                state=state, params=params, value=value, distributions=dict(candidates.distributions)
            )
        )


def _client(url: str, trials: int, barrier: Any, results: Any) -> None:
    client = Client(open_storage(url))
    # Makes what every process keeps: the candidates' features, the study's trials, a first fit.
    client.tell(client.ask())
    barrier.wait()
    results.put(client.serve(trials))


def crowd(url: str, clients: int, trials: int) -> list[Served]:
    """So many processes that share so many trials."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(clients), context.Queue()
    processes = [
        context.Process(target=_client, args=(url, -(-trials // clients), barrier, results), daemon=True)
        for _ in range(clients)
    ]
    for process in processes:
        process.start()
    served = [results.get(timeout=600) for _ in processes]
    for process in processes:
        process.join()
    return served


def _proxy(url: str, port: int) -> None:
    optuna.storages.run_grpc_proxy_server(open_storage(url), host="localhost", port=port)


@contextmanager
def storage_urls(postgresql: str | None) -> Iterator[dict[str, str]]:
    """Storages to measure, by name; files and the proxy server last as long as the context."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        open_storage(f"sqlite:///{root / 'proxied.db'}")
        server = multiprocessing.get_context("spawn").Process(
            target=_proxy, args=(f"sqlite:///{root / 'proxied.db'}", port), daemon=True
        )
        server.start()
        urls = {MEMORY: "", "SQLite": f"sqlite:///{root / 'study.db'}", "journal file": f"journal://{root / 'a.log'}"}
        try:
            yield {**urls, **({"PostgreSQL": postgresql} if postgresql else {}), PROXY: f"grpc://localhost:{port}"}
        finally:
            server.kill()
            server.join()


def _opened(url: str) -> optuna.storages.BaseStorage:
    return open_storage(url) if url else optuna.storages.InMemoryStorage()


def tables(words: Sequence[str], postgresql: str | None, trials: int) -> Iterator[str]:
    """The two tables of these storages, line by line, as they are measured."""
    with storage_urls(postgresql) as known:
        urls = {WORDS[w]: known[WORDS[w]] for w in words}
        yield from _rates(urls, trials)
        yield ""
        yield from _growth(urls)


def _rates(urls: dict[str, str], trials: int) -> Iterator[str]:
    yield from (
        f"{trials} trials after {BEFORE} finished ones, {CANDIDATES:,} candidates of {ENTRIES} entries",
        "",
        "| storage | clients | asks a second | ask, median s | processor s of an ask | calls an ask "
        "| calls a tell | statements an ask | statements a tell | written kB a trial |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    )
    for name, url in urls.items():
        for clients in CLIENTS if url else (1,):
            storage = _opened(url)
            fill(storage, BEFORE)
            log = log_written(storage)
            if url:
                served = crowd(url, clients, trials)
            else:
                client = Client(storage)
                client.tell(client.ask())
                served = [client.serve(trials)]
            yield _rate_row(name, served, log, log_written(storage))


def _rate_row(name: str, served: list[Served], before: int | None, after: int | None) -> str:
    total = sum(len(s.times) for s in served)
    seconds = max(s.ended for s in served) - min(s.began for s in served)
    asking, telling = [Work(), Work()]
    for s in served:
        asking, telling = _sum(asking, s.asking), _sum(telling, s.telling)
    wall, processor = (statistics.median(t[i] for s in served for t in s.times) for i in (0, 1))
    if before is not None and after is not None:
        # Each client's first trial is in the log too.
        written: float | None = (after - before) / (total + len(served))
    else:
        each = [s.written for s in served if s.written is not None]
        written = sum(each) / total if len(each) == len(served) and name not in (MEMORY, PROXY) else None
    statements = [f"{w.statements / total:.0f}" if asking.statements else "-" for w in (asking, telling)]
    return (
        f"| {name} | {len(served)} | {total / seconds:.1f} | {wall:.3f} | {processor:.3f} "
        f"| {asking.calls / total:.1f} | {telling.calls / total:.1f} | {statements[0]} | {statements[1]} "
        f"| {'-' if written is None else f'{written / 1024:.0f}'} |"
    )


def _growth(urls: dict[str, str]) -> Iterator[str]:
    yield from (
        f"One client, {_ASKS} asks of each kind, medians: wall s / the client's processor s",
        "",
        "| storage | finished | running | first ask of a process | ask after a result | of it in the storage "
        "| ask without a new result | tell |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    )
    for name, url in urls.items():
        for finished, running in SIZES:
            storage = _opened(url)
            fill(storage, finished, running)
            cells = " | ".join(ask_times(Client(_opened(url) if url else storage)))
            yield f"| {name} | {finished:,} | {running} | {cells} |"


def ask_times(client: Client) -> list[str]:
    """The first ask; an ask after a result, its part in the storage, an ask without a new result; a tell."""
    first, trial = _timed(client.ask)
    client.tell(trial)
    fresh, inside, tells = [], [], []
    for _ in range(_ASKS):
        before = client.watch.read()
        times, trial = _timed(client.ask)
        fresh.append(times)
        inside.append((client.watch.read() - before).seconds)
        tells.append(_timed(partial(client.tell, trial))[0])
    client.ask()
    again = [_timed(client.ask)[0] for _ in range(_ASKS)]
    return [_pair([first]), _pair(fresh), f"{statistics.median(inside):.3f}", _pair(again), _pair(tells)]


def _pair(times: list[tuple[float, float]]) -> str:
    return " / ".join(f"{statistics.median(t[i] for t in times):.3f}" for i in (0, 1))


def _timed(do: Callable[[], Any]) -> tuple[tuple[float, float], Any]:
    wall, processor = time.perf_counter(), time.process_time()
    result = do()
    return (time.perf_counter() - wall, time.process_time() - processor), result

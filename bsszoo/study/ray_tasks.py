"""``RayTasks``: calls that run in a Ray cluster, again where what they ran on was lost, and what they report.

Ray starts the tasks where there is room. One whose node is lost runs again, and so does one whose process died, once:
Ray's own retries count both alike, so the driver submits them again itself. Tasks report to an actor beside the driver,
which holds the study: what they say of a training's updates, and their rungs, to which the driver answers.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import platform
import secrets
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bsszoo.errors import RunError
from bsszoo.evaluators.base import checked_report, listening
from bsszoo.search.history import MOST_DEATHS
from bsszoo.study.ray_cluster import RayCluster, Resources, sent_bytes
from bsszoo.texts import one_line
from bsszoo.version import __version__

# Nodes that may be lost, one after the other, under one task: then it is likely to be what ends them.
_MOST_LOST: Final = 5
# Seconds that an interrupted task gets, for the checkpoint of its training, before it is killed.
_LAST_SECONDS: Final = 30.0
# Least seconds between two reports of the updates of one training.
_TELLS: Final = 0.5

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ended:
    """Why a task has no result: its processes died, or the nodes that it was on; a sentence without a full stop."""

    how: str


@dataclass(slots=True)
class _Task:
    """A task under way: ``deaths`` of its processes and nodes that were ``lost``, and who ``answers`` its questions."""

    key: int
    values: tuple[Any, ...]
    answers: Callable[[str, tuple[Any, ...]], Any]
    deaths: int
    attempt: int = 0
    lost: int = 0
    where: str = ""
    node: str = ""
    probed: bool = False
    updates: tuple[int, int] = (0, 0)


class RayTasks:
    """Calls of one function in a cluster, while the context is entered; those under way at its end are cancelled.

    Args:
        cluster: The cluster.
        call: Called in the tasks as ``call(*values, asks)``, where ``asks(what, *values)`` asks this process; a
            function of a module, or a ``functools.partial`` of one.
        died: Called with a task's key, the number of its processes that have died, and how the last one did.
        resources: What each takes, in place of the cluster's.
    """

    def __init__(
        self,
        cluster: RayCluster,
        call: Callable[..., Any],
        *,
        died: Callable[[int, int, str], None] = lambda *_: None,
        resources: Resources | None = None,
    ) -> None:
        self.cluster, self._died = cluster, died
        self._resources = resources or cluster.resources
        self._call, self._name = sent_bytes(call), secrets.token_hex(8)
        self._under: dict[Any, _Task] = {}

    def __enter__(self) -> RayTasks:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # Beside this process, so that it is lost with it only.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        post = ray.remote(num_cpus=0, max_restarts=0)(_Post)
        self._post = post.options(scheduling_strategy=here).remote()
        self._mail = self._post.collect.remote()
        self._run = ray.remote(max_retries=0)(_run)
        self._probe = ray.remote(num_cpus=0, max_retries=0)(_nothing)
        self._bytes = ray.put(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        self._cancel()

    def __len__(self) -> int:
        return len(self._under)

    @property
    def updates(self) -> tuple[int, int]:
        """The updates done, and their total, of the trainings that are under way."""
        counts = [task.updates for task in self._under.values()]
        return sum(done for done, _ in counts), sum(total for _, total in counts)

    def submit(
        self, key: int, *values: Any, answers: Callable[[str, tuple[Any, ...]], Any] = lambda *_: None, deaths: int = 0
    ) -> None:
        """Start a task where there is room.

        Args:
            key: Its name in ``wait``.
            values: What is called with.
            answers: Called in this process with what the task asks; an exception is raised there.
            deaths: Processes that it ended before.
        """
        self._start(_Task(key, values, answers, deaths))

    def _start(self, task: _Task) -> None:
        task.attempt, task.where, task.node, task.probed, task.updates = task.attempt + 1, "", "", False, (0, 0)
        path = [entry for entry in sys.path if isinstance(entry, str)]
        origin = (path, str(Path.cwd()), __version__)
        ref = self._run.options(**self._resources.options, name="bsszoo").remote(
            self._bytes, self._name, origin, self._post, task.key, task.attempt, task.values
        )
        self._under[ref] = task

    def wait(self, seconds: float) -> list[tuple[int, Any]]:
        """The tasks that have finished, with their results or ``Ended``; waits for one, or for a message of one.

        Raises:
            RunError: The cluster is lost, or a task cannot be run at all.
        """
        import ray

        ray.wait([*self._under, self._mail], num_returns=1, timeout=seconds)
        ready, _ = ray.wait([*self._under, self._mail], num_returns=len(self._under) + 1, timeout=0)
        finished = []
        # What was said before an end was said first.
        self._read_mail()
        for ref in ready:
            if (task := self._under.pop(ref, None)) is not None:
                finished += self._ended(ref, task)
        return finished

    def _read_mail(self) -> None:
        import ray

        by_key = {task.key: task for task in self._under.values()}
        try:
            if not ray.wait([self._mail], timeout=0)[0]:
                # A message may have come in since the last look; whoever sent it may have died by now.
                ray.get(self._post.wake.remote())
            messages = ray.get(self._mail)
            self._mail = self._post.collect.remote()
        except ray.exceptions.RayError as error:
            raise RunError(f"The connection to the Ray cluster is lost: {one_line(error, 300)}") from None
        for question, key, attempt, what, values in messages:
            task = by_key.get(key)
            current = task is not None and task.attempt == attempt
            if question is None:
                if task is not None and current and what == "updates":
                    task.updates = values
                elif task is not None and current and what == "begun":
                    task.where, task.node = values
                continue
            try:
                # One whose node was taken for lost: what it says is said again by another.
                answer = task.answers(what, values) if task is not None and current else None
                self._post.answer.remote(question, answer, None)
            except Exception as error:
                self._post.answer.remote(question, None, f"{type(error).__name__}: {error}")

    def _ended(self, ref: Any, task: _Task) -> list[tuple[int, Any]]:
        import ray

        exceptions = ray.exceptions
        try:
            value = ray.get(ref)
        except (exceptions.NodeDiedError, exceptions.TaskUnschedulableError):
            return self._lost(task)
        except (exceptions.WorkerCrashedError, exceptions.OutOfMemoryError) as error:
            return self._crashed(task, error)
        except exceptions.RayError as error:
            if isinstance(error, exceptions.LocalRayletDiedError):
                raise RunError("The Ray node of this machine has ended, and with it the search.") from None
            cause = error.as_instanceof_cause() if isinstance(error, exceptions.RayTaskError) else error
            raise RunError(f"A Ray task cannot be run: {one_line(getattr(cause, 'cause', cause), 400)}") from None
        if task.probed:
            return self._dead(task)
        kind, result = value
        if kind == "faulty":
            raise RunError(f"A Ray node cannot evaluate codes: {result}")
        return [(task.key, result)]

    def _crashed(self, task: _Task, error: Exception) -> list[tuple[int, Any]]:
        """A process died: by its own, or together with its node, which a further task there finds out."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        how = "killed by Ray, as its node ran out of memory, " if "OutOfMemory" in type(error).__name__ else ""
        if task.probed or not task.node:
            # The probe died, or the task before it began: that says nothing of the code.
            return self._lost(task)
        task.probed, task.where = True, f"{how}on {task.where}"
        there = NodeAffinitySchedulingStrategy(task.node, soft=False)
        self._under[self._probe.options(scheduling_strategy=there).remote()] = task
        return []

    def _dead(self, task: _Task) -> list[tuple[int, Any]]:
        task.deaths += 1
        self._died(task.key, task.deaths, task.where)
        if task.deaths >= MOST_DEATHS:
            return [
                (task.key, Ended(f"{task.deaths} processes died while they worked on it, the last one {task.where}"))
            ]
        self._start(task)
        return []

    def _lost(self, task: _Task) -> list[tuple[int, Any]]:
        task.lost += 1
        if task.lost > _MOST_LOST:
            last = f", the last one {task.where}" if task.where else ""
            return [(task.key, Ended(f"{task.lost} Ray nodes were lost while they worked on it{last}"))]
        _log.warning("A Ray node was lost%s; its task runs again on another.", f" ({task.where})" if task.where else "")
        self._start(task)
        return []

    def _cancel(self) -> None:
        """End what is under way: interrupted as by Ctrl-C, whereupon it ends its training; else killed."""
        import ray

        with suppress(Exception):
            refs = list(self._under)
            for ref in refs:
                ray.cancel(ref, force=False)
            left = ray.wait(refs, num_returns=len(refs), timeout=_LAST_SECONDS)[1] if refs else []
            for ref in left:
                ray.cancel(ref, force=True)
            ray.kill(self._post)
        self._under = {}


class _Post:
    """An actor: what tasks say and ask, until the driver takes it."""

    def __init__(self) -> None:
        self._messages: list[tuple[Any, ...]] = []
        self._open: dict[int, asyncio.Future[tuple[Any, str | None]]] = {}
        self._questions = 0
        self._some = asyncio.Event()

    async def say(self, key: int, attempt: int, what: str, values: tuple[Any, ...]) -> None:
        """Leave a message."""
        self._add(None, key, attempt, what, values)

    async def ask(self, key: int, attempt: int, what: str, values: tuple[Any, ...]) -> tuple[Any, str | None]:
        """Leave a question, and wait for its answer: a value, or an error."""
        self._questions += 1
        number, future = self._questions, asyncio.get_running_loop().create_future()
        self._open[number] = future
        self._add(number, key, attempt, what, values)
        answer: tuple[Any, str | None] = await future
        return answer

    async def answer(self, question: int, value: Any, error: str | None) -> None:
        """Answer a question."""
        self._open.pop(question).set_result((value, error))

    async def wake(self) -> None:
        """Let ``collect`` return, with or without messages."""
        self._some.set()

    async def collect(self) -> list[tuple[Any, ...]]:
        """Wait for messages, and take them."""
        await self._some.wait()
        self._some.clear()
        taken, self._messages = self._messages, []
        return taken

    def _add(self, *message: Any) -> None:
        self._messages.append(message)
        self._some.set()


def _nothing() -> None:
    """A task that shows that its node lives."""


#: What this process called last, by its name: what a code's evaluation made stays for the next.
_LOADED: dict[str, Any] = {}


def _run(
    sent: bytes,
    name: str,
    origin: tuple[list[str], str, str],
    post: Any,
    key: int,
    attempt: int,
    values: tuple[Any, ...],
) -> tuple[str, Any]:
    """A task: call what was sent, and report to the driver."""
    import ray

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        # A script starts Ray in the background, where interrupts are ignored: no task could be cancelled.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    context = ray.get_runtime_context()
    where = f"{platform.node()}, process {os.getpid()}"
    path, place, version = origin
    if version != __version__:
        return "faulty", f"{where} has bsszoo {__version__}, and the driver {version}."
    sys.path += [entry for entry in path if entry not in sys.path]
    if Path(place).is_dir():
        os.chdir(place)  # paths that a user gave are relative to it
    if name not in _LOADED:
        try:
            loaded = pickle.loads(sent)
        except Exception as error:
            return "faulty", f"{where}: {type(error).__name__}: {one_line(error, 300)}"
        _LOADED.clear()
        _LOADED[name] = loaded
    # Known before anything can end this process.
    _answer(post.say.remote(key, attempt, "begun", (where, context.get_node_id())))
    told = _Told(post, key, attempt)

    def asks(what: str, *asked: Any) -> Any:
        value, error = _answer(post.ask.remote(key, attempt, what, asked))
        if error is not None:
            raise RunError(f"The driver of the search failed: {error}")
        return value

    with listening(told):
        return "done", _LOADED[name](*values, asks)


def _answer(ref: Any) -> Any:
    """What an actor returns. A task that waits by ``ray.get`` lends its CPUs to another meanwhile; here it does not."""
    return ref.future().result()


@dataclass
class _Told:
    """Sends the updates of a training to the driver, not too often."""

    post: Any
    key: int
    attempt: int
    last: float = field(default=-_TELLS)

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done >= total or now - self.last >= _TELLS:
            self.last = now
            self.post.say.remote(self.key, self.attempt, "updates", (done, total))


class RemoteTrial:
    """A trial as an evaluator in a task sees it: the driver reports it to the study, and asks the pruner."""

    def __init__(self, replicate: int, asks: Callable[..., Any]) -> None:
        self.replicate, self.stopped, self._asks = replicate, False, asks

    def report(self, value: float, rung: int) -> None:
        """Record the value at the end of a rung."""
        self._asks("report", *checked_report(value, rung))

    def should_stop(self) -> bool:
        """Whether the study's pruner stops it after its last report."""
        self.stopped = bool(self._asks("should_stop"))
        return self.stopped

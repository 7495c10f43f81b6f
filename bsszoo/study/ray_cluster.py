"""``RayCluster``: a connection to a running Ray cluster, what a task takes of it, and what its nodes lack for tasks."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bsszoo.errors import SettingsError
from bsszoo.study.workers import THREADS
from bsszoo.texts import one_line
from bsszoo.version import __version__

#: In place of an address: the cluster that Ray finds, by RAY_ADDRESS or on this machine.
AUTO: Final = "auto"
# Seconds that a machine, and then Ray on it, gets to answer.
_ANSWERS: Final = 5.0
_CONNECTS: Final = 60.0
# Seconds that each node gets to say what it sees: its first process has to start.
_LOOKS: Final = 120.0
# A try in a process of its own: where Ray does not find a cluster it goes on for minutes, and cannot be interrupted.
_TRY: Final = (
    "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='CRITICAL'); "
    "print('connected', flush=True)"
)


@dataclass(frozen=True, slots=True)
class Resources:
    """What a task takes of a node: CPUs, GPUs (a share of one too), and Ray's custom resources by their names."""

    cpus: float = 1.0
    gpus: float = 0.0
    others: tuple[tuple[str, float], ...] = ()

    @classmethod
    def read(cls, text: str) -> Resources:
        """The resources of a text.

        Raises:
            SettingsError: It is none.

        Example:
            >>> Resources.read("cpus=4,gpus=1")
            Resources(cpus=4.0, gpus=1.0, others=())
        """
        values: dict[str, float] = {}
        for part in text.split(","):
            name, equals, value = (word.strip() for word in part.partition("="))
            try:
                amount = float(value)
            except ValueError:
                amount = -1.0
            if not equals or not name or name in values or not 0 <= amount < 1e6 or (amount > 1 and amount % 1):
                raise SettingsError(
                    f"--ray-resources is {text!r}; it takes what each code needs of a node, such as cpus=4,gpus=1: "
                    "whole numbers, or a share below 1."
                )
            values[name] = amount
        others = tuple((name, value) for name, value in values.items() if name not in ("cpus", "gpus"))
        made = cls(values.get("cpus", 1.0), values.get("gpus", 0.0), others)
        if not any(made.of_ray.values()):
            raise SettingsError(f"--ray-resources is {text!r}: a code that takes nothing of a node has no limit.")
        return made

    @property
    def of_ray(self) -> dict[str, float]:
        """The amounts by Ray's names."""
        return {"CPU": self.cpus, "GPU": self.gpus, **dict(self.others)}

    def fit(self, node: dict[str, float]) -> int:
        """How many times a node holds them, by its resources."""
        # Ray counts in steps of a ten-thousandth.
        return min(int((node.get(name, 0.0) + 1e-6) / amount) for name, amount in self.of_ray.items() if amount)

    @property
    def options(self) -> dict[str, Any]:
        """The options of a Ray task, whose process has as many threads as CPUs."""
        threads = str(max(1, int(self.cpus)))
        return {
            "num_cpus": self.cpus,
            "num_gpus": self.gpus,
            "resources": dict(self.others),
            "runtime_env": {"env_vars": dict.fromkeys(THREADS, threads)},
        }

    def __str__(self) -> str:
        names = {"CPU": "cpus", "GPU": "gpus"}
        return ",".join(f"{names.get(name, name)}={amount:g}" for name, amount in self.of_ray.items() if amount)


@dataclass(frozen=True, slots=True)
class _Node:
    """A living node: Ray's name of it, its machine's, and its resources."""

    name: str
    host: str
    resources: dict[str, float]


class RayCluster:
    """A running Ray cluster, while the context is entered.

    Args:
        address: ``auto``, or HOST:PORT of the cluster's head.
        resources: What each code takes; None for one GPU and its share of the node's CPUs where the cluster has GPUs,
            else for one CPU.

    Raises:
        SettingsError: The address is none.
    """

    def __init__(self, address: str = AUTO, resources: Resources | None = None) -> None:
        if address == AUTO:
            address = os.environ.get("RAY_ADDRESS") or AUTO
        if address.startswith("ray://"):
            raise SettingsError(
                f"--ray is {address!r}: by Ray Client the command would not be in the cluster. Run it on a machine of "
                "the cluster with --ray auto, or submit it with `ray job submit`."
            )
        host, _, port = address.rpartition(":")
        if address != AUTO and not (host and port.isdigit() and 0 < int(port) < 65536):
            raise SettingsError(f"--ray is {address!r}; it takes auto, or HOST:PORT of the cluster's head.")
        self.address, self._wanted = address, resources
        self._ours = False
        self._looked: set[str] = set()

    def __enter__(self) -> RayCluster:
        self._connect()
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        if self._ours:
            with _signals_kept():
                ray.shutdown()

    def _connect(self) -> None:
        """Connect this process, which is a part of the cluster from then on.

        Raises:
            SettingsError: Ray is not installed, or there is no such cluster that this process can be a part of.
        """
        try:
            import ray
        except ImportError:
            raise SettingsError('--ray needs a package that is not installed: pip install "bsszoo[ray]".') from None
        if ray.is_initialized():
            return  # by a script that searches in a cluster which it is a part of
        address = self.address
        if address != AUTO:
            _check_answers(address)
        try:
            done = subprocess.run(
                [sys.executable, "-c", _TRY, address], capture_output=True, text=True, timeout=_CONNECTS, check=False
            )
            failed = "" if "connected" in done.stdout else done.stderr
        except subprocess.TimeoutExpired:
            failed = f"no answer of Ray within {_CONNECTS:.0f} s; is this machine one of the cluster's nodes?"
        if failed:
            raise SettingsError(_no_cluster(address, failed))
        with _signals_kept():
            ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
        self._ours = True
        _quiet()

    # -- what there is ----------------------------------------------------------------------------------------

    def nodes(self) -> list[_Node]:
        """The living nodes."""
        import ray

        return [
            _Node(node["NodeID"], node["NodeManagerHostname"], dict(node["Resources"]))
            for node in ray.nodes()
            if node["Alive"]
        ]

    @property
    def resources(self) -> Resources:
        """What each code takes."""
        if self._wanted is None:
            shares = [node.resources.get("CPU", 0.0) // gpus for node in self.nodes() if (gpus := _gpus(node)) >= 1]
            self._wanted = Resources(max(1.0, min(shares)), 1.0) if shares else Resources()
        return self._wanted

    def holds(self) -> int:
        """How many tasks the living nodes hold at the same time."""
        return sum(self.resources.fit(node.resources) for node in self.nodes())

    @property
    def described(self) -> str:
        """What the cluster holds, for the screen."""
        nodes, tasks = len(self.nodes()), self.holds()
        return f"{nodes} {'node' if nodes == 1 else 'nodes'}, {tasks} {'code' if tasks == 1 else 'codes'} at once, " + (
            f"each with {self.resources}"
        )

    def whole_node(self) -> Resources:
        """All GPUs and CPUs of the node that has most, of those that can hold a task."""
        nodes = self.nodes()
        return _most([node for node in nodes if self.resources.fit(node.resources)] or nodes, self.resources.others)

    def check(self, call: Callable[..., Any], writes: Sequence[Path] = (), reads: Sequence[Path] = ()) -> None:
        """Let each node that can hold a task look for what tasks need: this package, what is called, and paths.

        Args:
            call: What tasks call, as for ``RayTasks``.
            writes: Folders that tasks and this process share; they are made.
            reads: Files and folders that have to be there.

        Raises:
            SettingsError: No node can hold a task, or one lacks something; the text names the node and what.
        """
        nodes = [node for node in self.nodes() if self.resources.fit(node.resources)]
        if not nodes:
            most = _most(self.nodes())
            raise SettingsError(
                f"No node of the Ray cluster holds {self.resources}, which each code takes; the largest one has "
                f"{most}. Give less with --ray-resources."
            )
        sent, token = sent_bytes(call), secrets.token_hex(8)
        marks = [folder / f".bsszoo-{token}" for folder in writes]
        try:
            for mark in marks:
                mark.parent.mkdir(parents=True, exist_ok=True)
                mark.write_text(token, encoding="utf-8")
            wrong = self._looks(nodes, sent, token, [str(m) for m in marks], [str(p) for p in reads])
        except OSError as error:
            raise SettingsError(f"{error.filename} cannot be written: {error.strerror or error}.") from None
        finally:
            for mark in marks:
                mark.unlink(missing_ok=True)
        if wrong:
            more = f" ({len(wrong) - 1} more nodes have faults)" if len(wrong) > 1 else ""
            raise SettingsError(f"{wrong[0]}{more}")
        self._looked |= {node.name for node in nodes}

    def _looks(self, nodes: list[_Node], sent: bytes, token: str, writes: list[str], reads: list[str]) -> list[str]:
        """What the nodes lack, in words."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        def look(sent: bytes, path: list[str], place: str, marks: list[str], token: str, reads: list[str]) -> list[str]:
            # Sent as it is, since the package may not be there; hence all that it needs is imported here.
            import os
            import pickle
            import sys
            from importlib.metadata import PackageNotFoundError
            from pathlib import Path

            sys.path += [entry for entry in path if entry not in sys.path]
            if Path(place).is_dir():
                os.chdir(place)
            try:
                from bsszoo.version import __version__ as found
            except (ImportError, PackageNotFoundError) as error:
                return ["package", str(error)]
            for mark in marks:
                try:
                    text = Path(mark).read_text(encoding="utf-8")
                except OSError:
                    text = ""
                if text != token:
                    return ["folder", str(Path(mark).parent)]
                try:
                    (beside := Path(f"{mark}-{os.getpid()}")).write_text(token, encoding="utf-8")
                    beside.unlink()
                except OSError as error:
                    return ["writes", f"{Path(mark).parent}: {error.strerror or error}"]
            for file in reads:
                if not Path(file).exists():
                    return ["path", file]
            try:
                pickle.loads(sent)
            except BaseException as error:
                return ["call", f"{type(error).__name__}: {error}", found]
            return ["", "", found]

        remote = ray.remote(max_retries=0)(look)
        path = [entry for entry in sys.path if isinstance(entry, str)]
        asked = {
            remote.options(
                **self.resources.options | {"num_cpus": 0, "num_gpus": 0, "resources": {}},
                scheduling_strategy=NodeAffinitySchedulingStrategy(node.name, soft=False),
            ).remote(sent, path, str(Path.cwd()), writes, token, reads): node
            for node in nodes
        }
        ray.wait(list(asked), num_returns=len(asked), timeout=_LOOKS)
        wrong = []
        for ref, node in asked.items():
            where = f"The Ray node {node.host} ({node.name[:8]})"
            try:
                kind, what, *found = ray.get(ref, timeout=0)
            except ray.exceptions.GetTimeoutError:
                wrong.append(f"{where} starts no process within {_LOOKS:.0f} s.")
                continue
            except (ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError):
                continue  # it has just been lost, and no task goes there
            except ray.exceptions.RayError as error:
                wrong.append(f"{where} starts no process: {one_line(error, 300)}")
                continue
            if found and found != [__version__]:
                wrong.append(
                    f"{where} has bsszoo {found[0]}, and this process {__version__}: install one version on all nodes."
                )
            elif kind:
                wrong.append(f"{where} {_LACKS[kind].format(one_line(what, 300))}")
        return wrong


#: What a node lacks.
_LACKS: Final = {
    "package": 'cannot import bsszoo ({}). Install it on all nodes: pip install "bsszoo[ray]".',
    "folder": "does not see the run's folder {}: give --out (and TMPDIR) on a disk that all nodes have under one path.",
    "writes": "cannot write to the run's folder {}.",
    "path": "has no {}: give --data and weights on a disk that all nodes have under one path.",
    "call": "cannot load the evaluator: {}. Its module has to be on every node, or on a common disk.",
}


def _most(nodes: Sequence[_Node], others: tuple[tuple[str, float], ...] = ()) -> Resources:
    best = max(nodes, key=lambda node: (_gpus(node), node.resources.get("CPU", 0.0)))
    return Resources(float(int(best.resources.get("CPU", 0.0))), float(int(_gpus(best))), others)


def _gpus(node: _Node) -> float:
    return node.resources.get("GPU", 0.0)


def _check_answers(address: str) -> None:
    """A ``SettingsError`` where nothing listens at an address."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port) if port.isdigit() else 0), _ANSWERS).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise SettingsError(_no_cluster(address, getattr(error, "strerror", None) or str(error))) from None


def _no_cluster(address: str, why: str) -> str:
    start = "`ray start --head` starts one, and `ray start --address=HOST:6379` adds other machines"
    if "Version mismatch" in why:
        lines = [line.strip() for line in why[why.rindex("Version mismatch") :].splitlines() if line.strip()]
        return f"This process and the Ray cluster have different versions. {one_line(' '.join(lines), 400)}"
    if "Could not find any running Ray" in why:
        return f"There is no Ray cluster: RAY_ADDRESS is not set and none runs on this machine. {start}."
    lines = [line for line in why.strip().splitlines() if line.strip()]
    last = one_line(lines[-1] if lines else "no reason was given", 300)
    where = "on this machine" if address == AUTO else f"at {address}"
    return f"There is no Ray cluster {where} that this process can join ({last.rstrip('.')}). {start}."


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Keep the handler of SIGTERM, in place of which Ray sets its own."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if main else None
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _quiet() -> None:
    """Keep off stdout what Ray prints of each process and node that ends: the driver says so itself, in a line."""
    from ray._private import worker

    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda *_, **__: None


def sent_bytes(call: Callable[..., Any]) -> bytes:
    """What tasks call, as bytes.

    Raises:
        SettingsError: It cannot be sent.
    """
    from ray import cloudpickle

    try:
        sent: bytes = cloudpickle.dumps(call)
    except Exception as error:
        raise SettingsError(
            f"--ray sends the evaluator to other machines, which cannot be done: {one_line(error, 300)}. Give a "
            "function at the top of a module (MODULE:FUNCTION on the command line)."
        ) from None
    return sent

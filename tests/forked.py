"""Commands of bsszoo in processes forked from one that has imported torch, timm and torchvision already.

A process of its own is what a kill, a signal, an exit code and a fresh state need; the four seconds of imports before
each are not. Those whose subject is a process from its very start are started by ``subprocess`` as ever.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_server: Any = None


def _context() -> Any:
    global _server
    if _server is None:
        _server = multiprocessing.get_context("forkserver")
        _server.set_forkserver_preload(
            [
                "torch",
                "timm",
                "torchvision.models.detection",
                "bsszoo.cli.main",
                "bsszoo.train.loop",
                "bsszoo.train.detection.task",
                "bsszoo.compression.session",
                "bsszoo.report.page",
            ]
        )
    return _server


class Command:
    """``python WORDS``, forked: ``-m MODULE ..`` or a script and its arguments; its output goes to files."""

    def __init__(self, words: Sequence[object], cwd: Path | None = None, env: Mapping[str, str] | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="forked-")
        self._out, self._err = (Path(self._folder.name) / name for name in ("out", "err"))
        # Not a daemon, which may not have processes of its own.
        self._process = _context().Process(
            target=_become,
            args=(
                [str(w) for w in words],
                str(cwd or Path.cwd()),
                dict(env or os.environ),
                str(self._out),
                str(self._err),
            ),
        )
        self._process.start()
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        code: int | None = self._process.exitcode
        return code

    def kill(self) -> None:
        """End it by a signal that it cannot see."""
        os.kill(self.pid, signal.SIGKILL)

    @property
    def stderr(self) -> str:
        """What it has written there so far."""
        return self._err.read_text(encoding="utf-8") if self._err.exists() else ""

    def wait(self) -> subprocess.CompletedProcess[str]:
        """Its end."""
        self._process.join()
        out = self._out.read_text(encoding="utf-8") if self._out.exists() else ""
        return subprocess.CompletedProcess((), self._process.exitcode, out, self.stderr)


def run(
    words: Sequence[object], cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A ``Command`` from start to end."""
    return Command(words, cwd, env).wait()


def _become(words: list[str], cwd: str, env: dict[str, str], out: str, err: str) -> None:
    # A shell gives what it starts in the background a SIGINT that is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # As in any process: its own processes are its children, and end with it.
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for number, file in ((1, out), (2, err)):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if words[0] == "-m":
        sys.argv, sys.path[0:0] = words[1:], [cwd]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0:0] = words, [str(Path(words[0]).parent)]
        runpy.run_path(words[0], run_name="__main__")

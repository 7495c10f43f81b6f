"""A process in which functions of bsszoo and timm are called, as huggingface_hub reads HF_ENDPOINT at its import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PROGRAM = '''
import dataclasses, hashlib, importlib, json, sys, time, warnings
import torch

torch.set_num_threads(1)

def show(value):
    """What of a result can be sent: a network as the logits of a fixed batch, bit by bit."""
    if isinstance(value, torch.nn.Module):
        size = value.default_cfg["input_size"]
        images = torch.arange(2 * size[0] * size[1] * size[2], dtype=torch.float32).reshape(2, *size).sin()
        with torch.no_grad():
            logits = value.eval()(images)
        return {"logits": hashlib.sha256(logits.numpy().tobytes()).hexdigest(), "shape": list(logits.shape),
                "architecture": value.default_cfg["architecture"], "label_names": value.default_cfg.get("label_names"),
                "mean": value.default_cfg["mean"], "bsszoo": "bsszoo" in sys.modules}
    if dataclasses.is_dataclass(value):
        return {f.name: show(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [show(v) for v in value]
    return value if isinstance(value, (int, float, str, dict, bool, type(None))) else str(value)

for line in sys.stdin:
    case = json.loads(line)
    start, out = time.monotonic(), {}
    try:
        module, _, name = case["call"].partition(":")
        out["value"] = show(getattr(importlib.import_module(module), name)(*case["args"], **case["kwargs"]))
    except Exception as error:
        out["error"], out["text"] = type(error).__name__, str(error)
    out["seconds"] = time.monotonic() - start
    print(json.dumps(out), flush=True)
'''


class Child:
    """The process; ``call`` waits for what a function gives, ``value`` takes that it gives no error."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def call(self, name: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """``{"value": ..}`` or ``{"error": its class, "text": ..}``, and the seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"call": name, "args": args, "kwargs": kwargs}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def value(self, name: str, *args: Any, **kwargs: Any) -> Any:
        answer = self.call(name, *args, **kwargs)
        assert "error" not in answer, answer
        return answer["value"]

    def refused(self, name: str, *args: Any, **kwargs: Any) -> str:
        """The text of the error, with its class before it."""
        answer = self.call(name, *args, **kwargs)
        assert "error" in answer, answer
        return f"{answer['error']}: {answer['text']}"


def hub_environment(endpoint: str, home: Path, token: str | None) -> dict[str, str]:
    """The environment of a user of the Hub at this address."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "BSSZOO_"))}
    return {
        **kept,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        **({} if token is None else {"HF_TOKEN": token}),
    }


@contextmanager
def child(endpoint: str, home: Path, token: str | None = None, **env: str) -> Iterator[Child]:
    """A process that talks to the Hub at this address as the user of a token."""
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**hub_environment(endpoint, home, token), **env},
    )
    try:
        yield Child(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)

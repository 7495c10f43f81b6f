"""From a budget to everybody: search, train, publish, load by name with bsszoo and with timm, export; proved equal.

    python examples/hub/walk.py                     a Hub of its own on this machine, in about two minutes on two cores
    python examples/hub/walk.py --endpoint https://huggingface.co --org ORG     the real one, as the user of HF_TOKEN

Every step is a command that a person types, in a process of its own. The pictures are Fashion-MNIST (--data DIR as
examples/training/fashion_mnist.py makes it), or noise with a pattern in it where there are none.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

from local_hub import LocalHub

FAMILY = "mobilenetv2"
RECIPE = """
model: {{name: mobilenetv2, num_classes: {classes}, in_chans: {channels}, head_init_scale: 0.1}}
data: {{dataset: {dataset}, image_size: 32, crop_pct: 1.0, mean: [{mean}], std: [{std}], subset: {subset}}}
optim: {{lr: 0.05, batch_size: 64, weight_decay: 0.0001}}
schedule: {{epochs: 1, warmup_epochs: 0.2}}
run: {{workers: 0}}
"""
# A network's logits on fixed pictures, as the SHA-256 of their bytes and as numbers.
LOGITS = """
import hashlib, json, sys
{imports}
import torch
torch.set_num_threads(1)
model = {model}
size = model.default_cfg["input_size"]
images = torch.arange(4 * size[0] * size[1] * size[2], dtype=torch.float32).reshape(4, *size).sin()
with torch.no_grad():
    logits = model.eval()(images)
print(json.dumps({{"bytes": hashlib.sha256(logits.numpy().tobytes()).hexdigest(), "logits": logits.tolist(),
                  "images": images.tolist(), "bsszoo": "bsszoo" in sys.modules}}))
"""


class Walk:
    """The commands of a walk: where they run, who runs them, and what they said."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.folder = folder
        kept = {k: v for k, v in os.environ.items() if not k.startswith("BSSZOO_")}
        self.environment = {
            **kept,
            "HF_ENDPOINT": endpoint,
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONWARNINGS": "ignore",
        }

    def run(self, *words: str, home: str, user: str | None = None) -> str:
        """Run a command as a user with an own cache; what it printed."""
        shown = ["python", *words[1:]] if words[0] == sys.executable else list(words)
        print(f"$ {' '.join(w if len(w) < 90 else '...' for w in shown)}", flush=True)
        token = {} if user is None else {"HF_TOKEN": f"hf_{user}"}
        done = subprocess.run(
            words,
            cwd=self.folder,
            text=True,
            capture_output=True,
            check=False,
            env={**self.environment, "HF_HOME": str(self.folder / home), **token},
        )
        if done.returncode:
            raise SystemExit(f"{done.stdout}{done.stderr}\nIt ended with {done.returncode}.")
        return done.stdout

    def bsszoo(self, *words: str, user: str | None = None) -> str:
        """Run a bsszoo command, and show its last lines."""
        said = self.run(sys.executable, "-m", "bsszoo", *words, home=f"home-{user}", user=user)
        print("\n".join(f"  {line}" for line in said.strip().splitlines()[-4:]), flush=True)
        return said

    def logits(self, model: str, imports: str, *, home: str, user: str | None = None) -> dict[str, object]:
        """The logits of a model that a fresh process loads."""
        said = self.run(sys.executable, "-c", LOGITS.format(model=model, imports=imports), home=home, user=user)
        found: dict[str, object] = json.loads(said.strip().splitlines()[-1])
        return found


def walk(
    folder: Path,
    endpoint: str,
    orgs: tuple[str, str],
    users: tuple[str | None, str | None],
    data: str | None,
    flops: str,
) -> dict[str, object]:
    """The whole walk; what was compared.

    Args:
        folder: An empty folder.
        endpoint: The Hub's address.
        orgs: Two organisations that the same network is published in.
        users: Who may write to each; None for whom HF_TOKEN names.
        data: The folder of Fashion-MNIST as torchvision has it; None for synthetic pictures.
        flops: The budget.
    """
    steps = Walk(folder, endpoint)
    real = data is not None
    recipe = RECIPE.format(
        classes=10,
        channels=1 if real else 3,
        dataset="torch/fashion_mnist" if real else "synthetic/640",
        mean="0.286" if real else "0.485, 0.456, 0.406",
        std="0.353" if real else "0.229, 0.224, 0.225",
        subset=0.05 if real else 1.0,
    )
    (folder / "short.yaml").write_text(recipe, encoding="utf-8")
    where = ["--data", data] if data is not None else ["--dataset", "synthetic/640"]

    print("\n-- a code under a budget, and its training")
    steps.bsszoo(
        "compress",
        FAMILY,
        "--flops",
        flops,
        "--evaluator",
        "structural",
        "--trials",
        "16",
        "--no-measure",
        "--finish",
        "short.yaml",
        *where,
        "--out",
        "run",
    )
    result = json.loads((folder / "run" / "result.json").read_text(encoding="utf-8"))
    trained = folder / "run" / result["finished"]["folder"]
    mine = steps.logits(f"bsszoo.create('local-dir:{trained}', pretrained=True)", "import bsszoo", home="home-local")
    compared: dict[str, object] = {"code": result["best"]["code"], "top1": result["finished"]["top1"]}

    for org, user in zip(orgs, users, strict=True):
        print(f"\n-- published by {user or 'the user of HF_TOKEN'} for {org}")
        steps.bsszoo("push", "run", f"{org}/shoes", "--license", "apache-2.0", user=user)
        steps.bsszoo("hub", "show", f"{org}/shoes")
        print("\n-- loaded by somebody else, in fresh processes")
        for name, model, imports in (
            ("bsszoo", f"bsszoo.create('hf-hub:{org}/shoes', pretrained=True)", "import bsszoo"),
            ("name", f"bsszoo.create('shoes', pretrained=True, org='{org}')", "import bsszoo"),
            ("timm", f"timm.create_model('hf-hub:{org}/shoes', pretrained=True)", "import timm, bsszoo.nets"),
        ):
            found = steps.logits(model, imports, home=f"home-{name}")
            assert found["bytes"] == mine["bytes"], f"{name} gives other logits"
            print(f"  {name}: the same logits, bit by bit")
            compared[f"{org}, {name}"] = found["bytes"]

    print("\n-- exported from the Hub, and run by onnxruntime")
    steps.bsszoo("export", f"hf-hub:{orgs[0]}/shoes", "--out", "shoes.onnx")
    compared["onnx"] = onnx_difference(folder / "shoes.onnx", mine)
    print(f"  onnxruntime: the same logits within {compared['onnx']:.1e} of the largest")

    print("\n-- a second revision, trained for longer")
    steps.bsszoo(
        "train",
        "short.yaml",
        "--set",
        f"model.name={result['best']['code']}",
        "--set",
        "schedule.epochs=2",
        *(["--data", data] if data is not None else []),
        "--out",
        "longer",
    )
    steps.bsszoo("push", "longer", f"{orgs[0]}/shoes", "--revision", "v2", "--search", "run", user=users[0])
    second, local, first = (
        steps.logits(f"bsszoo.create('{source}', pretrained=True)", "import bsszoo", home=f"home-{source[-2:]}")
        for source in (f"hf-hub:{orgs[0]}/shoes@v2", "local-dir:longer", f"hf-hub:{orgs[0]}/shoes")
    )
    assert second["bytes"] == local["bytes"] != mine["bytes"]
    assert first["bytes"] == mine["bytes"], "the first revision is as it was"
    print("  v2 has the new weights, the main branch still the first ones")
    compared["v2"] = second["bytes"]
    return compared


def onnx_difference(path: Path, expected: dict[str, object]) -> float:
    """The largest difference of an ONNX file's logits from the expected ones, as a share of the largest."""
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    images = np.asarray(expected["images"], dtype=np.float32)
    want = np.asarray(expected["logits"], dtype=np.float32)
    (found,) = session.run(None, {session.get_inputs()[0].name: images})
    share = float(np.abs(found - want).max() / np.abs(want).max())
    assert share < 1e-4, share
    return share


def main() -> None:
    """Parse, walk, and say what was proved."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint", help="a Hub's address; by default one is started here")
    parser.add_argument("--org", action="append", default=[], help="with --endpoint: where to push; twice for two")
    parser.add_argument(
        "--data", help="the folder of Fashion-MNIST as torchvision has it; synthetic pictures without it"
    )
    parser.add_argument("--flops", default="20M", help="the budget (default 20M)")
    parser.add_argument("--keep", help="a new folder for all that is made; by default it is removed")
    given = parser.parse_args()
    if given.endpoint and not given.org:
        parser.error("--endpoint needs --org, where you may write")
    folder = Path(given.keep or tempfile.mkdtemp(prefix="bsszoo-walk-")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    here = LocalHub({"acme": {"ann"}, "zenith": {"bob"}})
    orgs = (given.org[0], given.org[-1]) if given.endpoint else ("acme", "zenith")
    users = (None, None) if given.endpoint else ("ann", "bob")
    try:
        with nullcontext(given.endpoint) if given.endpoint else here.serve() as address:
            compared = walk(folder, address, orgs, users, given.data, given.flops)
    finally:
        if not given.keep:
            shutil.rmtree(folder, ignore_errors=True)
    mark = hashlib.sha256(json.dumps(compared, sort_keys=True).encode()).hexdigest()[:12]
    print(f"\nThe walk is done: {compared['code']}, top-1 {compared['top1']:.2f}%, everywhere the same ({mark}).")


if __name__ == "__main__":
    main()

"""A trained network made smaller by bsszoo, by Torch-Pruning and by FastNAS, in one run, with one fine-tuning loop.

    python benchmarks/compression.py --folder work --jobs 2          # goes on where it stopped
    python benchmarks/compression.py --folder work --table

The peers are the extra ``peers``. For each kind of pictures, network and base training:

    30,000 pictures -> base; 10,000 of them are all that a tool sees (1,000 are held out) -> a smaller network of each
    tool at each share of the MACs -> fine-tuned by the same loop, taught by the base, several seeds -> 10,000 test
    pictures, by which nothing is chosen

A share of the latency takes the place of one of the MACs with ``--limit latency``: the median of forwards of one
picture on one thread of this CPU, original and answer taking turns. The rivals have no such budget; they are asked for
less and less of the MACs until they are fast enough. Multiply-adds are counted by hooks on the resulting modules. The
rate of each answer's fine-tuning is the better of two on the held-out pictures, by its first seed; seeds of a row are
the same for all tools. Pictures: Fashion-MNIST of Debian's ``dataset-fashion-mnist``, and shapes that are drawn here.
Networks at 32 px: a narrow ResNet-18 and MobileNetV2, and, where ``--networks`` names them, MobileNetV3-Small,
MobileNetV4-Conv-S, ConvNeXt Atto and DeiT-Tiny as timm has them and a small ViT, the latter three trained by AdamW.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import json
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

CODES = {
    "resnet18": "resnet18_c24-48-96-192_l2-2-2-2_px32",
    "mobilenetv2": "mobilenetv2_c16-24-32-48-80-128_l2-2-3-2-2-1_t6-6-6-6-6-6_px32",
    "mobilenetv3": "mobilenetv3_small_c24-40-48-96_l2-3-2-3_b88-240-144-576_e72-96-120-288_px32",
    "mobilenetv4": "mobilenetv4_conv_small_c32-64-96-128_l1-1-6-6_t1-3-2-4_px32",
    "convnext": "convnext_atto_c40-80-160-320_l2-2-6-2_t4-4-4-4_px32",
    "vit": "vit_patch8_c512-512-512-512_l1-1-1-1_b128-128-128-128_g32-32-32-32_stem128_px32",
    "deit": "deit_c768-768-768-768_l3-3-3-3_b192-192-192-192_g64-64-64-64_px32",
}
#: Those that are compressed unless ``--networks`` says others.
USUAL = ("resnet18", "mobilenetv2")
#: Networks of layer normalisations, which SGD does not train: AdamW, at so small a share of the other networks' rates.
ADAMW = {"convnext": 0.04, "vit": 0.04, "deit": 0.04}
PICTURES = ("fashion", "shapes")
TOOLS = (
    "uniform from scratch",
    "uniform",
    "bsszoo",
    "FastNAS",
    "Torch-Pruning, Taylor, global",
    "Torch-Pruning, Taylor, local",
    "Torch-Pruning, magnitude, global",
    "Torch-Pruning, magnitude, local",
)
#: Shares of the time are alike up to this factor: what a measurement varies by.
ALIKE = 1.02
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
BASE, TUNE, TEST, HELD = 30_000, 10_000, 10_000, 1_000
BATCH, SIZE, CLASSES = 64, 32, 10
TEMPERATURE, TEACHER_SHARE = 2.0, 0.7
#: Peak rates of the base trainings, the better of several in a trial each.
BASE_RATES = {
    "resnet18": 0.08,
    "mobilenetv2": 0.02,
    "mobilenetv3": 0.05,
    "mobilenetv4": 0.05,
    "convnext": 0.05,
    "vit": 0.025,
    "deit": 0.0125,
}
#: Peak rates that an answer's fine-tuning is tried with; those of a training from scratch.
RATES = {True: (0.01, 0.03), False: (0.05, 0.15)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="of data, networks and results")
    parser.add_argument("--pictures", nargs="+", default=PICTURES, choices=PICTURES)
    parser.add_argument("--networks", nargs="+", default=USUAL, choices=list(CODES))
    parser.add_argument(
        "--bases", type=int, nargs="+", default=[0, 1], help="seeds of the base trainings (default 0 1)"
    )
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.3], help="of the MACs (default 0.5 0.3)")
    parser.add_argument("--limit", choices=("macs", "latency"), default="macs", help="what the shares are of")
    parser.add_argument("--tools", nargs="+", default=TOOLS, choices=TOOLS)
    parser.add_argument("--seeds", type=int, default=5, help="fine-tunings of each answer at each rate (default 5)")
    parser.add_argument("--epochs", type=int, default=3, help="of each (default 3)")
    parser.add_argument("--base-epochs", type=int, default=6)
    parser.add_argument("--trials", type=int, default=160, help="codes that bsszoo judges (default 160)")
    parser.add_argument("--minutes", type=float, help="begin nothing further after so long")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time, one thread each (default 1)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--source", type=Path, default=DEBIAN, help="folder of Fashion-MNIST's four files")
    parser.add_argument("--table", action="store_true", help="print the table of what is there, and end")
    given = parser.parse_args()
    if not given.table:
        given.until = math.inf if given.minutes is None else time.time() + 60 * given.minutes
        (given.folder / "results").mkdir(parents=True, exist_ok=True)
        for claim in (given.folder / "results").glob("*.claim"):
            claim.unlink()
        os.environ["OMP_NUM_THREADS"] = "1"
        context = multiprocessing.get_context("spawn")
        workers = [context.Process(target=work, args=(given,)) for _ in range(given.jobs)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    table(given.folder)


@dataclass(frozen=True)
class Job:
    """One step; done where its result is there, and possible where the results of ``needs`` are."""

    kind: str
    needs: tuple[str, ...] = ()
    pictures: str = ""
    network: str = ""
    base: int = 0
    share: float = 1.0
    limit: str = "macs"
    tool: str = "original"
    rate: float = 0.0
    seed: int = 0

    @property
    def name(self) -> str:
        """The name of its files."""
        words = {"draw": (), "base": ("network", "base"), "answer": ("network", "base", "limit", "share", "tool")}
        fields = words.get(self.kind, ("network", "base", "limit", "share", "tool", "rate", "seed"))
        text = "_".join([self.kind, self.pictures, *(str(getattr(self, f)) for f in fields)])
        return text.replace(", ", "-").replace(" ", "-")


def jobs_of(given: Any) -> list[Job]:
    """All steps, the longest first, and fine-tunings seed by seed."""
    draws = [Job("draw", pictures=p) for p in given.pictures]
    bases = [
        Job("base", (draw.name,), draw.pictures, network, base)
        for base in given.bases
        for draw in draws
        for network in given.networks
    ]
    order = sorted(given.tools, key=("bsszoo", "FastNAS", *TOOLS).index)
    answers = [
        Job("answer", (b.name,), b.pictures, b.network, b.base, share, given.limit, tool)
        for tool in order
        for share in given.shares
        for b in bases
    ]

    def tunings(a: Job, seed: int) -> list[Job]:
        rates = RATES[a.tool != "uniform from scratch"]
        return [Job("tune", (a.name,), a.pictures, a.network, a.base, a.share, a.limit, a.tool, r, seed) for r in rates]

    first = [job for a in answers for job in tunings(a, 0)]
    # What comes after the first seed waits for both rates of the first.
    waiting = [
        replace(job, needs=(a.name, *(other.name for other in tunings(a, 0))))
        for seed in range(1, given.seeds)
        for a in answers
        for job in tunings(a, seed)
    ]
    return [*draws, *bases, *answers, *first, *waiting]


def work(given: Any) -> None:
    """Do what is possible and nobody has claimed, until nothing is left or the time is over."""
    import logging
    import warnings

    import torch

    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    folder, cache = given.folder / "results", {}
    while time.time() < given.until:
        left = [job for job in jobs_of(given) if not (folder / f"{job.name}.json").exists()]
        ready = [job for job in left if all((folder / f"{need}.json").exists() for need in job.needs)]
        for job in ready:
            try:
                (folder / f"{job.name}.claim").touch(exist_ok=False)
            except FileExistsError:
                continue
            break
        else:
            if not left:
                return
            time.sleep(0.5)
            continue
        start, worked = time.time(), time.process_time()
        try:
            if job.kind != "draw" and job.pictures not in cache:
                cache[job.pictures] = Pictures(given, job.pictures)
            found = globals()[job.kind](given, job, cache.get(job.pictures))
        except Exception as error:  # a tool that cannot do it is a result
            found = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
        found |= {"seconds": time.time() - start, "cpu": time.process_time() - worked, "device": given.device}
        line = json.dumps({**asdict(job), "epochs": given.epochs, **found})
        scratch = folder / f"{job.name}.new"
        scratch.write_text(line + "\n")
        scratch.rename(folder / f"{job.name}.json")
        print(line, file=sys.stderr, flush=True)


# Pictures


def draw(given: Any, job: Job, _: Any) -> dict[str, Any]:
    """Write the pictures as folders: ``base`` (train, test), and ``tools``, the same with fewer training pictures."""
    import numpy as np
    from PIL import Image

    out = given.folder / job.pictures
    rng = np.random.default_rng(7)
    if job.pictures == "fashion":
        parts = {name: fashion(given.source, name) for name in ("train", "t10k")}
    else:
        parts = {name: shapes(rng, number) for name, number in (("train", BASE), ("t10k", TEST))}
    for name, (images, labels) in parts.items():
        order = rng.permutation(len(images))[: BASE if name == "train" else TEST]
        for place, row in enumerate(order):
            folders = (
                ["base/test", "tools/test"] if name == "t10k" else ["base/train", "tools/train"][: 1 + (place < TUNE)]
            )
            for folder in folders:
                file = out / folder / str(labels[row]) / f"{row}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(images[row]).save(file, compress_level=1)
    return {"pictures": job.pictures}


def fashion(source: Path, name: str) -> Any:
    """Fashion-MNIST as colour pictures of 32 px, and labels."""
    import numpy as np

    images, labels = (
        np.frombuffer(gzip.decompress((source / f"{name}-{kind}-ubyte.gz").read_bytes()), np.uint8, offset=offset)
        for kind, offset in (("images-idx3", 16), ("labels-idx1", 8))
    )
    padded = np.pad(images.reshape(-1, 28, 28), ((0, 0), (2, 2), (2, 2)))
    return np.repeat(padded[..., None], 3, axis=3), labels


def shapes(rng: Any, number: int) -> Any:
    """Noisy pictures of ten shapes in colours, turned, among lines; and labels."""
    import numpy as np
    from PIL import Image, ImageDraw

    images, labels = np.empty((number, SIZE, SIZE, 3), np.uint8), rng.integers(0, CLASSES, number)
    for i, label in enumerate(labels):
        colours = np.concatenate([rng.integers(0, 130, (4, 3)), rng.integers(100, 256, (1, 3))])
        picture = Image.new("RGB", (96, 96), tuple(colours[0].tolist()))
        pen = ImageDraw.Draw(picture)
        for colour in colours[1:3]:
            pen.line(
                [tuple(p) for p in rng.integers(0, 96, (3, 2)).tolist()],
                tuple(colour.tolist()),
                int(rng.integers(1, 5)),
            )
        r, turn = rng.uniform(18, 34), rng.uniform(0, 2 * np.pi)
        x, y = rng.uniform(r, 96 - r, 2)
        # Corners of regular polygons and stars as radii and angles; 0 is a disc, 9 an ellipse.
        corners = {1: 3, 2: 4, 3: 5, 4: 6, 5: 8, 6: 10, 7: 12, 8: 4}.get(int(label), 48)
        angles = turn + 2 * np.pi * np.arange(corners) / corners
        radii = np.full(corners, r)
        if label in (5, 6, 7):  # stars of 4, 5 and 6 points
            radii[1::2] *= 0.5
        points = np.stack([radii * np.cos(angles - turn), radii * np.sin(angles - turn)], axis=1)
        if label in (8, 9):  # a rectangle, from a square, and an ellipse
            points[:, 1] *= 0.55
        turned = points @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        pen.polygon([(x + a, y + b) for a, b in turned.tolist()], tuple(colours[4].tolist()))
        small = np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BOX), dtype=np.float64)
        images[i] = np.clip(small + rng.normal(0, 30, small.shape), 0, 255)
    return images, labels


class Pictures:
    """The pictures of one kind as bsszoo reads them: the base's, the tools', those held out, and the test's."""

    def __init__(self, given: Any, pictures: str) -> None:
        import torch

        from bsszoo.train.classification.data import open_splits, open_test
        from bsszoo.train.classification.in_memory import Normaliser, decode
        from bsszoo.train.classification.recipe import DataPart, ModelPart, OptimPart, Recipe, SchedulePart

        part = DataPart(dataset="folder", image_size=SIZE, holdout=HELD / TUNE, test_split="test")
        model = ModelPart(name=CODES["resnet18"], num_classes=CLASSES)
        optim, schedule = OptimPart(lr=0.01, batch_size=BATCH), SchedulePart(epochs=given.epochs)
        recipe = Recipe(model=model, optim=optim, schedule=schedule, data=part)
        self.device = torch.device(given.device)
        self.normalise = Normaliser(recipe, self.device)
        folder = given.folder / pictures
        base, _ = open_splits(part.replaced(holdout=0.0, val_split="test"), folder / "base", num_classes=CLASSES)
        train, held = open_splits(part, folder / "tools", num_classes=CLASSES)
        test = open_test(part, folder / "tools", num_classes=CLASSES)
        found: Any = {"base": base, "train": train, "held": held, "test": test}
        images: Any = {name: decode(split, recipe, folder / f"{name}.npy") for name, split in found.items()}
        self.base, self.train, self.held, self.test = images.values()

    def accuracy(self, network: Any, images: Any) -> tuple[float, float]:
        """Accuracy [%] and cross-entropy."""
        from bsszoo.train.classification.in_memory import accuracy, outputs

        found = accuracy(outputs(network, images, self.normalise), images.labels)
        return found.top1, found.loss


def fit(
    network: Any,
    pictures: Pictures,
    images: Any,
    *,
    epochs: int,
    rate: float,
    seed: int,
    kind: str,
    teacher: Any = None,
) -> None:
    """The one loop that trains everything here: a cosine, crops and flips, taught by ``teacher`` where given.

    ``kind`` is the network's, which decides between SGD and AdamW.
    """
    import numpy as np
    import torch
    from torch.nn.functional import cross_entropy, kl_div, log_softmax

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    optimizer: torch.optim.Optimizer
    if kind in ADAMW:
        optimizer = torch.optim.AdamW(network.parameters(), lr=rate * ADAMW[kind], weight_decay=0.05)
    else:
        optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    updates = epochs * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    network.train()
    for update in range(updates):
        if update % (len(images) // BATCH) == 0:
            order = rng.permutation(len(images))
        start = update % (len(images) // BATCH) * BATCH
        rows = order[start : start + BATCH]
        inputs = pictures.normalise(images.crops(rows, rng, flip=0.5))
        labels = images.labels[torch.from_numpy(rows)].to(pictures.device)
        outputs = network(inputs)
        loss = cross_entropy(outputs, labels)
        if teacher is not None:
            with torch.no_grad():
                wanted = log_softmax(teacher(inputs) / TEMPERATURE, dim=1)
            logs = log_softmax(outputs / TEMPERATURE, dim=1)
            taught = kl_div(logs, wanted, reduction="batchmean", log_target=True) * TEMPERATURE**2
            loss = (1 - TEACHER_SHARE) * loss + TEACHER_SHARE * taught
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()


def base_file(given: Any, job: Job) -> Path:
    return Path(given.folder / f"{job.pictures}_{job.network}_{job.base}.pth")


def base(given: Any, job: Job, data: Pictures) -> dict[str, Any]:
    """Train a network to begin with."""
    import torch

    import bsszoo

    torch.manual_seed(job.base)
    made: Any = bsszoo.create(CODES[job.network], num_classes=CLASSES).to(data.device)
    rate = BASE_RATES[job.network]
    fit(made, data, data.base, epochs=given.base_epochs, rate=rate, seed=job.base, kind=job.network)
    top1, loss = data.accuracy(made, data.test)
    torch.save({k: v.cpu() for k, v in made.state_dict().items()}, base_file(given, job))
    return {"top1": top1, "loss": loss, **figures(made, data)}


def original_of(given: Any, job: Job, data: Pictures) -> Any:
    import bsszoo

    made: Any = bsszoo.create(CODES[job.network], pretrained=str(base_file(given, job)), num_classes=CLASSES)
    return made.to(data.device).eval()


def tune(given: Any, job: Job, data: Pictures) -> dict[str, Any]:
    """Fine-tune an answer and measure it."""
    import torch

    file = given.folder / f"{job.needs[0]}.pt"
    if not file.exists():
        return {"error": "there is no answer"}
    if job.seed:
        first = [json.loads((given.folder / "results" / f"{name}.json").read_text()) for name in job.needs[1:]]
        if job.rate != min(first, key=lambda run: run.get("held_loss", math.inf))["rate"]:
            return {"error": "the other rate was better"}
    made = torch.load(file, map_location=data.device, weights_only=False)
    top1, loss, held = tuned(given, job, made, data, original_of(given, job, data), job.rate, job.seed)
    return {"top1": top1, "loss": loss, "held_loss": held}


def tuned(
    given: Any, job: Job, made: Any, data: Pictures, teacher: Any, rate: float, seed: int
) -> tuple[float, float, float]:
    """Test accuracy [%], test loss and held-out loss after a fine-tuning of a copy."""
    network = copy.deepcopy(made)
    fit(network, data, data.train, epochs=given.epochs, rate=rate, seed=seed, teacher=teacher, kind=job.network)
    top1, loss = data.accuracy(network, data.test)
    return top1, loss, data.accuracy(network, data.held)[1]


# Answers


def answer(given: Any, job: Job, data: Pictures) -> dict[str, Any]:
    """A tool's smaller network, not yet fine-tuned."""
    import torch

    facts: dict[str, Any] = {}
    original = original_of(given, job, data)
    whole = figures(original, data)["macs"]
    if job.tool.startswith(("FastNAS", "Torch-Pruning")):
        ways = {"taylor": "Taylor" in job.tool, "everywhere": "global" in job.tool}

        def at(share: float) -> Any:
            if job.tool == "FastNAS":
                return fastnas(job.network, data, original, share)
            return torch_pruning(data, original, share * whole, **ways)

        made = at(job.share) if job.limit == "macs" else fast_enough(original, at, job.share)
    else:
        made, facts = ours(given, job, data, original)
    if job.limit == "latency":
        facts["latency"] = latency_share(original, made)
    torch.save(made, given.folder / f"{job.name}.pt")
    return {"whole": whole, **figures(made, data), **facts}


def fast_enough(original: Any, at: Any, share: float) -> Any:
    """The largest answer, of shares of the MACs that fall by a sixth each, that takes at most a share of the time."""
    macs = 0.6
    while macs > 0.02:
        made = at(macs)
        if latency_share(original, made) <= ALIKE * share:
            return made
        macs *= 5 / 6
    raise RuntimeError(f"takes more than {share:.0%} of the time at {macs:.0%} of the multiply-adds")


def latency_share(original: Any, made: Any) -> float:
    """The time of a forward of one picture, of that of the original; medians of many, which take turns."""
    import torch

    from bsszoo.latency.timer import time_forwards

    picture = torch.rand(1, 3, SIZE, SIZE)
    networks = [copy.deepcopy(network).cpu().eval() for network in (original, made)]
    forwards = [lambda network=network: network(picture) for network in networks]
    theirs, mine = time_forwards(forwards, seconds=5.0, most=2000, warm_up=10)
    return mine.median_ms / theirs.median_ms


def ours(given: Any, job: Job, data: Pictures, original: Any) -> tuple[Any, dict[str, Any]]:
    """The uniform network, or the one that bsszoo recommends: of its leaders and the uniform one the best held out."""
    import torch

    import bsszoo
    from bsszoo.compression.session import Compression
    from bsszoo.evaluators.inherited import InheritedEvaluator
    from bsszoo.evaluators.registry import Request
    from bsszoo.models.resolve import resolve
    from bsszoo.options import Budget, TrainingOptions

    # No tensor shows the heads of the ViT.
    folder, file, named = given.folder / job.name, str(base_file(given, job)), CODES[job.network]
    network, pictures = resolve(file, code=named), str(given.folder / job.pictures / "tools")
    options = TrainingOptions(data=pictures, image_size=SIZE, code=named)
    judge = InheritedEvaluator.requested(Request(network, options, folder / "fitted", tested=False))
    share = f"{100 * job.share:g}%"
    budget = Budget(flops=share) if job.limit == "macs" else Budget(latency=share)
    plan = Compression(
        file, budget, data=pictures, code=named, image_size=SIZE, trials=1, out=folder / "plan", confirm=0
    )
    uniform = next(row.code for row in plan.search().networks if row.role == "uniform")
    if job.tool == "uniform from scratch":
        torch.manual_seed(0)
        return bsszoo.create(uniform, num_classes=CLASSES).to(data.device), {"code": str(uniform)}
    if job.tool == "uniform":
        return judge.shared().subnetwork(uniform), {"code": str(uniform)}
    search = Compression(
        file,
        budget,
        data=pictures,
        code=named,
        image_size=SIZE,
        trials=given.trials,
        out=folder / "search",
        confirm=0,
        measure=False,
    )
    start = time.process_time()
    found = [row.code for row in search.search().networks if row.role == "found"][: judge.leaders]
    searched = time.process_time() - start
    losses, networks = {}, {}
    for code in [*found, uniform]:
        networks[code] = judge.shared().subnetwork(code)
        runs = [tuned(given, job, networks[code], data, original, RATES[True][0], seed)[2] for seed in (200, 201)]
        losses[code] = statistics.mean(runs)
    best = min(losses, key=lambda code: losses[code])
    return networks[best], {
        "code": str(best),
        "search_cpu": searched,
        "leaders": {str(c): v for c, v in losses.items()},
    }


def torch_pruning(data: Pictures, original: Any, most: float, *, taylor: bool, everywhere: bool) -> Any:
    """Channels removed step by step, as its examples do, until the multiply-adds are few enough."""
    import torch
    import torch_pruning as tp
    from torch.nn.functional import cross_entropy

    network = copy.deepcopy(original)
    example = torch.zeros(1, 3, SIZE, SIZE, device=data.device)
    # As its own example for timm's transformers: heads become narrower, of attention that takes any width of them. Of
    # whole heads version 1.6.1 removes all in so many steps, or fails.
    attentions = [module for module in network.modules() if hasattr(module, "qkv")]
    for module in attentions:
        module.forward = partial(attend, module)  # which can be stored, other than a method
    heads = {module.qkv: module.num_heads for module in attentions}
    importance = tp.importance.GroupTaylorImportance() if taylor else tp.importance.GroupMagnitudeImportance(p=2)
    pruner = tp.pruner.BasePruner(
        network,
        example,
        importance=importance,
        global_pruning=everywhere,
        pruning_ratio=0.99,
        max_pruning_ratio=0.9 if everywhere else 0.99,
        iterative_steps=200,
        ignored_layers=[network.get_classifier()],
        num_heads=heads,
        prune_num_heads=False,
        prune_head_dims=True,
    )
    rows = data.train.some(256)
    while figures(network, data)["macs"] > most:
        if taylor:
            network.zero_grad()
            for part in range(0, len(rows), BATCH):
                images = data.normalise(data.train.centres(rows[part : part + BATCH]))
                labels = data.train.labels[torch.from_numpy(rows[part : part + BATCH])].to(data.device)
                cross_entropy(network(images), labels).backward()
        before = figures(network, data)["macs"]
        pruner.step()
        for module in attentions:
            module.head_dim = module.qkv.out_features // (3 * module.num_heads)
        if figures(network, data)["macs"] == before and pruner.current_step >= 200:
            raise RuntimeError(f"stops at {before:,} multiply-adds")
    network.zero_grad(set_to_none=True)
    return network.eval()


def attend(self: Any, x: Any, **_: Any) -> Any:
    """Attention with heads as wide as its layers are by now."""
    images, tokens, _channels = x.shape
    q, k, v = self.qkv(x).reshape(images, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
    mixed = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
    return self.proj_drop(self.proj(mixed.transpose(1, 2).reshape(images, tokens, -1)))


def fastnas(network: str, data: Pictures, original: Any, share: float) -> Any:
    """NVIDIA Model Optimizer's FastNAS, divisor 8, accuracy on the held-out pictures as its score."""
    import modelopt.torch.prune as mtp
    import torch

    made = torchvision_twin(original, data) if network == "mobilenetv2" else copy.deepcopy(original)
    batches = [(data.normalise(data.train.centres(slice(i, i + 100))),) for i in range(0, 5000, 100)]
    config = mtp.fastnas.FastNASConfig()
    rules: Any = dict(config)
    for kind, key in (("nn.Conv2d", "channel_divisor"), ("nn.BatchNorm2d", "feature_divisor")):
        for rule in rules[kind].values():
            rule[key] = 8
    example = torch.zeros(1, 3, SIZE, SIZE, device=data.device)
    pruned, _ = mtp.prune(
        made,
        mode=[("fastnas", rules)],
        constraints={"flops": f"{100 * share:g}%"},
        dummy_input=example,
        config={
            "data_loader": batches,
            "collect_func": lambda batch: batch[0],
            "score_func": lambda model: data.accuracy(model, data.held)[0],
            "checkpoint": None,
            "verbose": False,
        },
    )
    return pruned.eval()


def torchvision_twin(original: Any, data: Pictures) -> Any:
    """The narrow MobileNetV2 as torchvision's class, which FastNAS takes where it does not take timm's."""
    import torch
    import torchvision

    from bsszoo.codes.code import Code

    code = Code.parse(CODES["mobilenetv2"])
    strides = (1, 2, 2, 2, 1, 2, 1)
    rows = [[1, 16, 1, 1]] + [
        [t, c, n, s] for t, c, n, s in zip(code.expansions, code.widths, code.depths, strides[1:], strict=False)
    ]
    twin = torchvision.models.MobileNetV2(
        num_classes=CLASSES, inverted_residual_setting=rows, round_nearest=1, dropout=0.0
    )
    theirs, ours = twin.state_dict(), original.state_dict()
    assert [v.shape for v in theirs.values()] == [v.shape for v in ours.values()]
    twin.load_state_dict(dict(zip(theirs, ours.values(), strict=True)))
    twin = twin.to(data.device).eval()
    example = torch.rand(4, 3, SIZE, SIZE, device=data.device)
    torch.testing.assert_close(twin(example), original(example), atol=1e-4, rtol=1e-4)
    return twin


def figures(network: Any, data: Pictures) -> dict[str, int]:
    """Multiply-adds of one picture by hooks on convolutions, linear layers and attention, and parameters."""
    import torch
    from torch import nn

    macs = 0

    def count(module: Any, _: Any, output: Any) -> None:
        nonlocal macs
        each = module.weight[0].numel()
        macs += each * output.numel()

    def products(module: Any, _: Any, output: Any) -> None:
        nonlocal macs
        macs += 2 * output.shape[1] ** 2 * (module.qkv.out_features // 3)

    handles = [m.register_forward_hook(products) for m in network.modules() if hasattr(m, "qkv")]
    handles += [m.register_forward_hook(count) for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    training = network.training
    network.eval()
    with torch.no_grad():
        network(torch.zeros(1, 3, SIZE, SIZE, device=data.device))
    network.train(training)
    for handle in handles:
        handle.remove()
    return {"macs": macs, "params": sum(p.numel() for p in network.parameters())}


# Results


def table(folder: Path) -> None:
    """Mean test accuracies with 95% intervals over the seeds, and ours against the best rival of each row."""
    from bsszoo.compression.confirm import format_interval, mean_interval

    files = sorted((folder / "results").glob("*.json"))
    rows = [json.loads(file.read_text()) for file in files]
    originals = {(r["pictures"], r["network"], r["base"]): r for r in rows if r["kind"] == "base"}
    answers = {
        (r["pictures"], r["network"], r["base"], r.get("limit", "macs"), r["share"], r["tool"]): r
        for r in rows
        if r["kind"] == "answer"
    }
    tunings: Any = defaultdict(lambda: defaultdict(list))
    for r in rows:
        if r["kind"] == "tune" and "error" not in r:
            tunings[(r["pictures"], r["network"], r["base"], r.get("limit", "macs"), r["share"], r["tool"])][
                r["rate"]
            ].append(r)
    print("| pictures, network, base | asked | tool | test accuracy [%] | MACs | params | time | rate | cpu s | n |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    means: Any = defaultdict(dict)
    for key, made in sorted(answers.items(), key=lambda item: (item[0][:5], TOOLS.index(item[0][5]))):
        whole, name = originals[key[:3]], f"{key[0]}, {key[1]}, {key[2]} | {key[3]} {key[4]:.0%}"
        if "error" in made:
            print(f"| {name} | {key[5]} | {made['error']} | | | | | |")
            continue
        by_rate = tunings[key]
        firsts = {r["rate"]: r["held_loss"] for runs in by_rate.values() for r in runs if r["seed"] == 0}
        if not firsts:  # not yet, or both failed
            continue
        rate = min(firsts, key=lambda rate: firsts[rate])
        tops = [r["top1"] for r in by_rate[rate]]
        means[key[:5]][key[5]] = statistics.mean(tops)
        sizes = f"{made['macs'] / whole['macs']:.1%} | {made['params'] / whole['params']:.0%}"
        sizes += f" | {made['latency']:.0%}" if "latency" in made else " | "
        interval = format_interval(mean_interval(tops))
        print(f"| {name} | {key[5]} | {interval} | {sizes} | {rate} | {made['cpu']:.0f} | {len(tops)} |")
    gaps: dict[str, list[float]] = defaultdict(list)
    for row, tools in means.items():
        rivals = [mean for tool, mean in tools.items() if tool.startswith(("Fast", "Torch"))]
        if "bsszoo" not in tools:
            continue
        gaps["the original, as it is"].append(tools["bsszoo"] - originals[row[:3]]["top1"])
        for tool, mean in tools.items():
            gaps[tool].append(tools["bsszoo"] - mean)
        if rivals:
            gaps["the best rival of each row"].append(tools["bsszoo"] - max(rivals))
    print()
    for against, values in gaps.items():
        if against != "bsszoo":
            print(f"bsszoo less {against}: {format_interval(mean_interval(values), sign=True)} over {len(values)} rows")


if __name__ == "__main__":
    main()

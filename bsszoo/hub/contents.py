"""The files of a repository, written into a folder: the same ones for a dry run and for a push."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from pathlib import Path
from typing import Any, Final

from safetensors.torch import save_file
from timm.models._hub import save_config_for_hf
from torch import nn

from bsszoo.codes.families import family_of
from bsszoo.errors import SettingsError
from bsszoo.files import whole_file, write_whole
from bsszoo.hub.card import model_card
from bsszoo.hub.source import (
    CONFIG,
    PUBLISHED,
    RESULT,
    TRIALS,
    Search,
    Trained,
    portable_recipe,
    portable_trials,
    reading,
    without_paths,
)
from bsszoo.models.build import GENERIC
from bsszoo.models.create import create
from bsszoo.models.hub_files import WEIGHTS_FILE
from bsszoo.models.saved_config import SECTION
from bsszoo.models.timm_arguments import TimmArguments, timm_arguments
from bsszoo.models.weights import sha256_of
from bsszoo.train.checkpoint import METRICS, RECIPE, SUMMARY
from bsszoo.version import __version__

CARD, SEARCH_PLOT = "README.md", "search.png"
TRAINING, SEARCH, SEARCH_TRIALS = (PUBLISHED[name] for name in (SUMMARY, RESULT, TRIALS))
#: Every file that a push may write; those that it does not write are deleted from the repository.
FILES: Final = (CARD, CONFIG, WEIGHTS_FILE, RECIPE, TRAINING, METRICS, SEARCH, SEARCH_TRIALS, SEARCH_PLOT)


def write_contents(trained: Trained, name: str, folder: Path, *, licence: str | None = None) -> tuple[str, ...]:
    """Write what the repository ``name`` is to hold; the same input gives the same bytes.

    The weights are loaded strictly into the code's network before anything is written, so that what is published is
    whole and fits.

    Args:
        trained: The network.
        name: ``org/name`` or ``org/name@branch``, under which the card loads it.
        folder: An existing folder.
        licence: The licence of the weights as the Hub names it.

    Returns:
        The names of the files.

    Raises:
        WeightsError: The weights cannot be read or are of another network.
    """
    network: Any = create(trained.code, pretrained=trained.weights)
    timm = timm_arguments(trained.code)
    written = [WEIGHTS_FILE]
    with whole_file(folder / WEIGHTS_FILE) as scratch:
        # Not the source's file: that may be a pickle, or have torchvision's keys.
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, scratch, metadata={"format": "pt"})
    config = _config(trained, network, timm, sha256_of(folder / WEIGHTS_FILE))
    texts = {CONFIG: _json(config)}
    if trained.recipe is not None:
        with reading(RECIPE):
            texts[RECIPE] = portable_recipe(trained.recipe)
    if trained.summary is not None:
        texts[TRAINING] = _json(without_paths(dict(trained.summary)))
    if trained.metrics is not None:
        texts[METRICS] = trained.metrics
    plot = None
    if trained.search is not None:
        # The commands of its training name folders of this machine.
        result = {key: value for key, value in trained.search.result.items() if key != "training"}
        texts[SEARCH] = _json(without_paths(result))
        with reading(f"{TRIALS} ({SEARCH_TRIALS}) or {RESULT} ({SEARCH})"):
            texts[SEARCH_TRIALS] = portable_trials(trained.search.trials)
            plot = SEARCH_PLOT if _draw_search(trained.search, folder / SEARCH_PLOT) else None
    texts[CARD] = model_card(
        trained, name, timm=timm, num_classes=network.num_classes, in_chans=network.in_chans, licence=licence, plot=plot
    )
    for file, text in texts.items():
        write_whole(folder / file, text)
    written += [*texts, *([plot] if plot else [])]
    return tuple(file for file in FILES if file in written)


def write_dry_run(trained: Trained, name: str, folder: Path, *, licence: str | None = None) -> tuple[str, ...]:
    """``write_contents`` into a user's folder, which may hold an earlier dry run and nothing else.

    Raises:
        SettingsError: It holds other files or cannot be written.
        WeightsError: As ``write_contents``.
    """
    others = [p.name for p in folder.iterdir() if p.name not in FILES] if folder.is_dir() else []
    if others or (folder.exists() and not folder.is_dir()):
        what = f"holds other files ({', '.join(sorted(others)[:3])})" if others else "is a file"
        raise SettingsError(f"{folder} {what}: give a new or empty folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = write_contents(trained, name, folder, licence=licence)
    except OSError as error:
        raise SettingsError(f"{folder} cannot be written: {error.strerror or error}.") from None
    for file in FILES:
        if file not in written:
            (folder / file).unlink(missing_ok=True)
    return written


def _config(trained: Trained, network: nn.Module, timm: TimmArguments | None, checksum: str) -> dict[str, Any]:
    """``config.json``: timm's, with the code where bsszoo reads it whatever builds the network."""
    config = without_paths(dict(trained.config)) or _timm_config(network)
    made: Any = network
    pool = family_of(trained.code.family).global_pool
    arguments = {"in_chans": made.in_chans, "num_classes": made.num_classes, "global_pool": pool}
    if timm is not None:
        config["architecture"], config["model_args"] = timm.architecture, {**timm.arguments, **arguments}
    else:
        config["architecture"], config["model_args"] = GENERIC, {"code": trained.code.to_dict(), **arguments}
    config[SECTION] = {"code": trained.code.to_dict(), "version": __version__, "sha256": checksum}
    return config


def _timm_config(network: nn.Module) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / CONFIG
        save_config_for_hf(network, str(path))
        made: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return made


def _scores_of(search: Search) -> list[tuple[int, float]]:
    """Number and score of every trial that gave a finite one."""
    rows = csv.DictReader(io.StringIO(search.trials))
    scores = [(int(row["number"]), float(row["score"])) for row in rows if row.get("score")]
    return [(number, score) for number, score in scores if abs(number) < 1e9 and abs(score) < 1e30]


def _draw_search(search: Search, path: Path) -> bool:
    """Plot the search (PNG); False where there is nothing to plot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = _scores_of(search)
    if not points:
        return False
    numbers, scores = [n for n, _ in points], [s for _, s in points]
    best = [max(scores[: i + 1]) for i in range(len(scores))]
    figure = Figure(figsize=(7, 3.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.scatter(numbers, scores, s=14, color="#5b7fa6", label="an evaluated code")
    axes.step(numbers, best, where="post", color="#b4552d", label="best so far")
    for network in search.result["networks"]:
        if network["role"] != "found" and network["score"] is not None and abs(network["score"]) < 1e30:
            style = "--" if network["role"] == "uniform" else ":"
            axes.axhline(
                network["score"],
                color="#666666",
                linewidth=0.9,
                linestyle=style,
                label={"uniform": "uniformly rescaled original"}.get(network["role"], "original"),
            )
    axes.set_xlabel("evaluation")
    axes.set_ylabel("score")
    axes.grid(visible=True, linewidth=0.3)
    # Below the axes: no region inside is free in every search.
    figure.legend(loc="outside lower center", ncols=4, fontsize="small", frameon=False)
    # Without the time and the library's version in it, the same search gives the same bytes.
    figure.savefig(path, metadata={"Software": None})
    return True


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"

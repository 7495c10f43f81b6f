"""The options of a compression: frozen, documented once, for Python and the command line.

A module of plain values: the command line imports it before anything heavy.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Final

from bsszoo.errors import BudgetError, SettingsError, close_matches

#: Fresh trainings of the best code and of the uniformly rescaled network, and the number of random codes.
TRAININGS: Final = 3
#: Reduction factor of successive halving: of the codes that report at a rung, one in this many is promoted.
REDUCTION: Final = 3
#: What trained networks can be quantised to.
INT8: Final = "int8"
# Headings of the help of options that are another group than their dataclass's.
_LATENCY: Final = "Latency"
_WHERE: Final = "Where it runs and writes"


def option(
    default: Any = MISSING,
    text: str = "",
    *,
    metavar: str | None = None,
    display: str | bool = True,
    kind: type | None = None,
    group: str | None = None,
    flag: str | None = None,
) -> Any:
    """A dataclass field that is an option.

    Args:
        default: Its default; without one the option is required.
        text: The help text.
        metavar: Placeholder of the value in the help.
        display: The default as text in the help, or False for none, where the value itself says little.
        kind: Type of the value on the command line; by default that of ``default``, else str.
        flag: The option on the command line; by default the field's name. One of a list may be repeated.
        group: Heading of its group in the help; by default its dataclass's ``TITLE``.
    """
    if kind is None:
        kind = str if default is MISSING or default is None else type(default)
    metadata = {"help": text, "metavar": metavar, "display": display, "kind": kind, "group": group, "flag": flag}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


def options_of(*groups: type) -> dict[str, Field[Any]]:
    """The options of dataclasses by name, in order."""
    return {f.name: f for group in groups for f in fields(group) if "help" in f.metadata}


def refuse_dataset(dataset: str | None) -> None:
    """A ``SettingsError`` where ``dataset`` is set for a detector."""
    if dataset is not None:
        raise SettingsError("--dataset is for classifiers; a detector's images are in COCO's format.")


def check_count(name: str, value: object, least: int) -> None:
    """A ``SettingsError`` unless a value is an integer from ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise SettingsError(f"{name} is {value!r}; it takes an integer from {least}.")


def check_precision(value: object) -> None:
    """A ``SettingsError`` unless networks can be quantised to this."""
    if value != INT8:
        raise SettingsError(f"--quantize is {value!r}; it takes {INT8}.")


@dataclass(frozen=True)
class Budget:
    """Upper limits on a code's cost, as a user writes them: ``Budget(flops="50%", params="2M")``.

    One of ``flops``, ``params`` and ``latency`` at least.

    Raises:
        BudgetError: None of them is set, or a value is invalid.
    """

    TITLE: ClassVar[str] = "Budget"

    flops: str | float | None = option(
        None,
        "The budget in multiply-adds, as the paper counts FLOPs: 130M, 0.13G, or 60% of the "
        "network's. Tools that count 2 x MACs report twice this figure. --params or --latency do as well, or several.",
        metavar="MACS",
        display=False,
    )
    params: str | float | None = option(None, "Most parameters, e.g. 2.5M or 70%.", metavar="N", display=False)
    latency: str | float | None = option(
        None,
        "Most milliseconds of a forward: 8ms, or 60% of the network's. As predicted by --latency-table or "
        "--latency-model; without them a table of blocks is measured on this machine first, and kept.",
        metavar="MS",
        display=False,
    )
    activations: str | float | None = option(
        None,
        "Most activations (elements of the outputs of all convolutions), e.g. 5M or 60%.",
        metavar="N",
        display=False,
    )
    threads: int = option(1, "CPU threads of the forwards that are timed.", metavar="N", group=_LATENCY)
    latency_batch: int = option(
        1, "Of the forwards that --latency is about: images at a time.", metavar="N", group=_LATENCY
    )
    runtime: str = option(
        "pytorch",
        "What runs the forwards that are timed, for --latency and at the end: pytorch, onnxruntime, "
        "openvino or litert (extras of bsszoo: onnx, openvino, litert).",
        metavar="NAME",
        group=_LATENCY,
    )
    latency_table: Any = option(
        None,
        "Milliseconds of each block, JSON or CSV; a code's latency is their sum.",
        metavar="FILE",
        display=False,
        group=_LATENCY,
    )
    latency_model: Any = option(
        None,
        "Your Python function of a bsszoo.Code that returns its milliseconds.",
        metavar="MODULE:FUNCTION",
        display=False,
        group=_LATENCY,
    )
    slack: float = option(
        0.1,
        "Share of the budget that a code may leave unused: of --flops, without it of --params, else of --latency.",
        metavar="SHARE",
    )
    grow: bool = option(
        False,
        "Allow a budget above the network's cost, which makes it larger; with a trained network's images also stages "
        "up to 1.5 times as wide and deep as its own.",
    )

    def __post_init__(self) -> None:
        slack = self.slack
        if isinstance(slack, bool) or not isinstance(slack, (int, float)) or not 0 < slack <= 1:
            raise BudgetError(f"--slack is {slack!r}; it takes a share above 0 and up to 1, e.g. 0.1.")
        if self.flops is None and self.params is None and self.latency is None:
            raise BudgetError(
                "A compression needs a budget: --flops 50% of the multiply-adds, --params 2M or --latency 8ms, or "
                "several of them."
            )
        for name in ("threads", "latency_batch"):
            check_count(f"--{name.replace('_', '-')}", getattr(self, name), 1)


def read_rungs(rungs: str | Sequence[int] | None) -> tuple[int, ...] | None:
    """The epochs of the shorter trainings of ``--rungs``, rising; empty for ``none``, None where it is not set.

    Raises:
        SettingsError: It is no such list.

    Example:
        >>> read_rungs("4,12"), read_rungs([4, 12]), read_rungs("none"), read_rungs(None)
        ((4, 12), (4, 12), (), None)
    """
    if rungs is None:
        return None
    if isinstance(rungs, str) and rungs.strip().lower() == "none":
        return ()
    words = rungs.split(",") if isinstance(rungs, str) else [str(epochs) for epochs in rungs]
    epochs = [int(word) if word.strip().isdecimal() else 0 for word in words]
    if min(epochs, default=0) < 1 or any(a >= b for a, b in itertools.pairwise(epochs)):
        raise SettingsError(f"--rungs is {rungs!r}; it takes rising numbers of epochs, such as 4,12, or none.")
    return tuple(epochs)


@dataclass(frozen=True)
class TrainingOptions:
    """The images that codes are trained on, and how.

    Raises:
        SettingsError: Training options are set without images.
    """

    TITLE: ClassVar[str] = "Images and trainings"

    data: str | Path | None = option(
        None,
        "Judge codes on the images in this folder, as `bsszoo train` reads them: by inherited weights where "
        "the network has weights, else by training; accuracy is measured on training images that are held out. "
        "digits: real pictures for a first try, on which a network without weights is trained first.",
        metavar="DIR",
        display=False,
    )
    code: Any = option(
        None,
        "The network of a weights file, a name or a code's text, where its shapes do not determine it: how wide the "
        "heads of a ViT are, how it is padded.",
        metavar="NAME_OR_CODE",
        display="read off the file's shapes",
    )
    recipe: str | Path | None = option(
        None,
        "With --data: how each code is trained.",
        metavar="FILE",
        display="the paper's, in full; from inherited weights one that fits the number of images",
    )
    assignments: Sequence[str] = option(
        (),
        "With --data: another value than the recipe's, such as optim.lr=0.01. May be repeated.",
        metavar="KEY=VALUE",
        display=False,
        kind=list[str],
        flag="--set",
    )
    dataset: str | None = option(
        None,
        "With --data: how the folder is read: folder, torch/fashion_mnist, wds/NAME, ..",
        metavar="NAME",
        display="the recipe's, else folder",
    )
    epochs: int | None = option(
        None, "With --data: epochs of each training.", metavar="N", display="the recipe's", kind=int
    )
    rungs: str | Sequence[int] | None = option(
        None,
        "With --data, of codes trained from scratch: the epochs of shorter trainings, each a whole schedule, by which "
        "they are judged. Of those that end one, 1 in --reduction goes on to the next; the last gives the score, and "
        "leaders are trained for all --epochs at the end. none: every code is.",
        metavar="N,N|none",
        display="a ninth and a third of the epochs where the shorter has 1,000 updates, else none",
        kind=str,
    )
    image_size: int | None = option(
        None,
        "With --data: side of the images in training. --flops counts at the family's size.",
        metavar="PX",
        display="the recipe's",
        kind=int,
    )
    subset: float | None = option(
        None, "With --data: share of the images to train on.", metavar="SHARE", display="all", kind=float
    )
    repeats: int = option(1, "With --data: trainings of each code.", metavar="N")
    ap: str | None = option(
        None,
        "With a detector and --data: which average precision judges.",
        metavar="mask|box",
        display="mask where there are masks",
    )

    def __post_init__(self) -> None:
        if isinstance(self.assignments, str):
            raise SettingsError(f"assignments is {self.assignments!r}; it takes a list, such as ['optim.lr=0.01'].")
        object.__setattr__(self, "assignments", tuple(self.assignments or ()))
        how = self.recipe is not None or self.epochs or self.image_size or self.subset or self.ap or self.repeats != 1
        if (how or self.rungs or self.assignments) and not self.has_data:
            raise SettingsError(
                "--recipe, --set, --epochs, --rungs, --image-size, --subset, --ap and --repeats say how codes are "
                "trained: give the images with --data."
            )
        if (epochs := read_rungs(self.rungs)) is not None:
            object.__setattr__(self, "rungs", ",".join(map(str, epochs)) or "none")

    @property
    def has_data(self) -> bool:
        """Whether there are images to train on."""
        return self.data is not None or self.dataset is not None

    @property
    def folder(self) -> str | None:
        """The folder of the images as text."""
        return None if self.data is None else str(self.data)


@dataclass(frozen=True)
class SearchOptions:
    """How codes are searched and judged, and where the trials are stored.

    Raises:
        SettingsError: A number is out of range, or there is no such search.
    """

    TITLE: ClassVar[str] = "Search"

    evaluator: Any = option(
        None,
        "The evaluator of codes. structural: a heuristic that needs no data and is no accuracy. With --data, "
        "inherited: how near a subnetwork of a trained network comes to it after a short fine-tuning; training: the "
        "accuracy after a training from scratch. MODULE:FUNCTION: your Python function of a bsszoo.Code, higher is "
        "better.",
        metavar="NAME|MODULE:FUNCTION",
        display="structural; with --data inherited, of a network without weights training",
    )
    trials: int | None = option(
        None,
        "Codes to evaluate.",
        metavar="N",
        display="64; by inherited weights 160, of which about a third are fine-tuned",
        kind=int,
    )
    batch: int = option(
        16,
        "Most codes of the dispersed first iteration; the default search ends it with the eighth result.",
        metavar="N",
    )
    seed: int = option(0, "Seed of everything random.", metavar="N")
    search: str = option(
        "default", "default: bsszoo's search; paper: that of AutoBSS's appendix A.1.", metavar="default|paper"
    )
    reduction: int = option(
        REDUCTION,
        "With an evaluator of several rungs: of the codes that reach a rung's end, 1 in N is promoted. 1: all.",
        metavar="N",
    )
    replicates: float | None = option(
        None,
        "Share of the trials, at most, that train a leader again, with another seed, where that promises more than a "
        "new code. 0: none.",
        metavar="SHARE",
        display="0.25 where codes are trained from scratch, once each, by the default search",
        kind=float,
    )
    workers: int | None = option(
        None,
        "Processes on this machine, each of which evaluates one code at a time; with --ray: codes under way at once.",
        metavar="N",
        display="1; with --ray as many as the cluster holds",
        kind=int,
        group=_WHERE,
    )
    ray: str | None = option(
        None,
        "Evaluate codes as tasks of a running Ray cluster, of which this machine is a part: auto, for the one that Ray "
        "finds (RAY_ADDRESS, or on this machine), or HOST:PORT of its head (extra of bsszoo: ray).",
        metavar="auto|ADDRESS",
        display=False,
        group=_WHERE,
    )
    ray_resources: str | None = option(
        None,
        "With --ray: what each code takes of a node.",
        metavar="cpus=N,gpus=N",
        display="one GPU and its share of the CPUs; without GPUs one CPU",
        group=_WHERE,
    )
    storage: str | None = option(
        None,
        "Where the trials are stored: postgresql://user@host/database, sqlite:///file.db, "
        "journal:///shared/file.log or grpc://host:port.",
        metavar="URL",
        display="an SQLite file in DIR",
        group=_WHERE,
    )
    study: str | None = option(
        None,
        "Share the search of this name in --storage with other machines that run the same command.",
        metavar="NAME",
        display=False,
        group=_WHERE,
    )
    grace: float = option(
        60.0,
        "Seconds without a heartbeat after which a worker counts as dead, and its code is evaluated again.",
        metavar="SECONDS",
        group=_WHERE,
    )
    retry_failed: bool = option(False, "Evaluate the codes again that failed in an earlier run.", group=_WHERE)
    out: str | Path | None = option(
        None,
        "Folder of the run; the same command resumes it.",
        metavar="DIR",
        display="bsszoo-runs/ and the settings' name",
        group=_WHERE,
    )

    def __post_init__(self) -> None:
        for name, least in (("trials", 1), ("batch", 1), ("seed", 0), ("reduction", 1)):
            if getattr(self, name) is not None:
                check_count(f"--{name}", getattr(self, name), least)
        if self.ray is not None and self.study is not None:
            raise SettingsError(
                "--ray has one driver, which alone works on its study, and --study shares one: give one of the two. "
                "More machines join a Ray cluster as its nodes."
            )
        if self.ray is None and self.ray_resources is not None:
            raise SettingsError("--ray-resources says what a code takes in a Ray cluster: give the cluster with --ray.")
        if self.out is not None and "://" in str(self.out):
            raise SettingsError(
                f"--out is {str(self.out)!r}; it takes a folder: a run needs locks, and files that are replaced as a "
                "whole. Mount the storage, and give its path."
            )
        if self.search not in ("default", "paper"):
            raise SettingsError(f"--search is {self.search!r}; it takes default or paper.")
        if self.replicates is not None and not 0 <= self.replicates <= 1:
            raise SettingsError(f"--replicates is {self.replicates!r}; it takes a share from 0 to 1, such as 0.25.")
        if self.replicates and self.search == "paper":
            raise SettingsError("--replicates is for the default search; the paper's trains each code once.")


@dataclass(frozen=True)
class EndOptions:
    """What follows the search.

    Raises:
        SettingsError: A number is out of range, or options of the final training are set without ``finish``.
    """

    TITLE: ClassVar[str] = "After the search"

    measure: bool = option(True, "Measure the forward time of the networks in the table.")
    confirm: int = option(
        TRAININGS,
        "With --data: at the end, N fresh trainings each of the best three codes and of the uniformly rescaled "
        "network, measured on the validation split, which the search does not see. Of codes trained from scratch the "
        "best six are trained once, and three of them further; of detectors it is the best one. Beside them the "
        "network itself where weights are inherited, else one training each of N random codes. 0: none.",
        metavar="N",
    )
    confirm_most: int | None = option(
        None,
        "With --data: trainings each at most, of the best networks that N trainings do not tell apart.",
        metavar="N",
        display="twice --confirm where weights are inherited, else --confirm",
        kind=int,
    )
    finish: Any = option(
        None,
        "With --data: train the recommended code in full at the end, by a recipe's file or the paper's.",
        metavar="RECIPE|paper",
        display=False,
    )
    teacher: str | None = option(
        None,
        "With --finish: the original with these weights teaches that code (a tag, "
        "hf-hub:ORG/NAME, a training's folder or a file).",
        metavar="WEIGHTS",
        display=False,
    )
    onnx: bool = option(
        False,
        "Of a trained network with --data: write the recommended network as an ONNX file too, checked against PyTorch.",
    )
    quantize: str | None = option(
        None,
        "With --data: quantise the original, the uniformly rescaled and the recommended network, those with weights, "
        "after the fresh trainings, calibrated on training images, and measure what that changes: accuracy, size and "
        "latency. By the tool of --runtime, which runs both; with pytorch by onnxruntime (extra of bsszoo: onnx).",
        metavar="int8",
        display=False,
    )
    inherit: str | None = option(
        None,
        "With --finish: that code starts from these weights of the original, as far as shapes allow.",
        metavar="WEIGHTS",
        display=False,
    )

    def __post_init__(self) -> None:
        check_count("--confirm", self.confirm, 0)
        if self.confirm_most is not None:
            check_count("--confirm-most", self.confirm_most, self.confirm)
        if self.quantize is not None:
            check_precision(self.quantize)
        if self.finish is None and (self.teacher is not None or self.inherit is not None):
            raise SettingsError(
                "--teacher and --inherit say how the best code is trained in full: give a recipe with --finish."
            )


@dataclass(frozen=True)
class GridOptions:
    """The search space, beside the budget."""

    TITLE: ClassVar[str] = "Search space"

    scale: float | None = option(
        None,
        "Scale of the grid of widths; 1 is the paper's grid.",
        metavar="S",
        display="what meets the budget",
        kind=float,
    )
    divisor: str | int | None = option(
        None,
        "Widths are multiples of it, which devices compute without waste: of 4 or 2 where a stage is narrow. none: the "
        "paper's steps, and any width for subnetworks.",
        metavar="N|none",
        display="8; none with --search paper or --scale",
    )
    depth_cap: str | float | None = option(
        None,
        "Most total depth, in multiples of the uniformly rescaled network's.",
        metavar="X|none",
        display="1.5 for structural, else none",
    )
    stage_depth_cap: str | float | None = option(
        None, "The same for each stage.", metavar="X|none", display="2 for structural, else none"
    )
    params_cap: str | tuple[float, float] | None = option(
        None,
        "Least and most parameters, in multiples of the uniformly rescaled network's.",
        metavar="A:B|none",
        display="0.85:1.25 for structural, else none",
    )

    def __post_init__(self) -> None:
        if self.divisor is not None and str(self.divisor).lower() != "none":
            if not str(self.divisor).isdigit() or int(self.divisor) < 1:
                raise SettingsError(f"--divisor is {self.divisor!r}; it takes a number of channels such as 8, or none.")
            object.__setattr__(self, "divisor", int(self.divisor))

    def divisor_or(self, default: int | None) -> int | None:
        """The divisor of widths; None for none."""
        if self.divisor is None:
            return default
        return self.divisor if isinstance(self.divisor, int) else None

    @property
    def capped(self) -> bool:
        """Whether a cap is set, or explicitly none."""
        return any(cap is not None for cap in (self.depth_cap, self.stage_depth_cap, self.params_cap))


#: The options of a compression by group, in the order of the command line.
GROUPS: Final = {
    "budget": Budget,
    "training": TrainingOptions,
    "search": SearchOptions,
    "end": EndOptions,
    "grid": GridOptions,
}


@dataclass(frozen=True)
class Options:
    """All options of a compression, by group."""

    budget: Budget
    training: TrainingOptions = TrainingOptions()
    search: SearchOptions = SearchOptions()
    end: EndOptions = EndOptions()
    grid: GridOptions = GridOptions()

    @classmethod
    def of(cls, budget: Budget | None = None, **values: Any) -> Options:
        """The options by their names.

        Args:
            budget: The budget; None takes its options from the values too.
            values: Options of any group, such as ``trials=32``.

        Raises:
            SettingsError: There is no such option, or a value is invalid.
        """
        groups: Mapping[str, type] = {k: v for k, v in GROUPS.items() if budget is None or v is not Budget}
        valid = options_of(*groups.values())
        for name in values:
            if name not in valid:
                raise SettingsError(f"There is no option {name!r}.{close_matches(name, valid)}")
        made: dict[str, Any] = {
            group: kind(**{name: values[name] for name in options_of(kind) if name in values})
            for group, kind in groups.items()
        }
        return cls(**({} if budget is None else {"budget": budget}) | made)

    def words(self) -> list[str] | None:
        """The options that differ from their defaults, as on the command line; None where one cannot be written there.

        Example:
            >>> Options.of(flops="130M", seed=3, measure=False).words()
            ['--flops', '130M', '--seed', '3', '--no-measure']
        """
        words: list[str] = []
        for group in GROUPS:
            for f in fields(getattr(self, group)):
                value, name = getattr(getattr(self, group), f.name), f.name.replace("_", "-")
                if value == f.default:
                    continue
                if f.metadata["flag"]:
                    words += [word for each in value for word in (f.metadata["flag"], each)]
                elif isinstance(value, bool):
                    words.append(f"--{'' if value else 'no-'}{name}")
                elif isinstance(value, tuple):
                    words += [f"--{name}", ":".join(map(str, value))]
                elif isinstance(value, (str, int, float, Path)) or f.name == "code":
                    words += [f"--{name}", str(value)]
                else:
                    return None
        return words

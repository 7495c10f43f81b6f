"""The model card: what a network is, how its code was found, how it was trained, and what was measured of it.

Every figure is computed from the code or read from a run's files; what nobody measured says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from huggingface_hub import EvalResult, ModelCardData

from bsszoo.codes.code import Code, stages_of
from bsszoo.codes.cost import Cost, code_cost, stage_costs
from bsszoo.codes.families import family_of
from bsszoo.codes.named import entry_of
from bsszoo.hub.markdown import code as code_text
from bsszoo.hub.markdown import plain
from bsszoo.hub.source import (
    PUBLISHED,
    RESULT,
    Measured,
    Search,
    Trained,
    count_in,
    measured_of,
    number_in,
    reading,
    without_paths,
)
from bsszoo.models.timm_arguments import TimmArguments
from bsszoo.report.figures import ABSENT, human, percent, score
from bsszoo.report.tables import inner, operator
from bsszoo.texts import one_line, parse_yaml
from bsszoo.train.checkpoint import RECIPE, SUMMARY
from bsszoo.version import __version__

_CITATION: Final = """```bibtex
@inproceedings{zhang2020autobss,
  title     = {{AutoBSS}: An Efficient Algorithm for Block Stacking Style Search},
  author    = {Zhang, Yikang and Zhang, Jian and Zhong, Zhao},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2020}
}
```"""
_NOT_MEASURED: Final = "not measured"


def model_card(
    trained: Trained,
    name: str,
    *,
    timm: TimmArguments | None,
    num_classes: int,
    in_chans: int,
    licence: str | None = None,
    picture: str | None = None,
) -> str:
    """The text of ``README.md``: the Hub's metadata, then the card.

    Args:
        trained: The network and what is known of it.
        name: ``org/name`` of the repository.
        timm: How timm alone builds the network, None where it cannot.
        num_classes, in_chans: Outputs of the classifier and channels of the input.
        licence: The licence of the weights as the Hub names it; None says that none was stated.
        picture: File name of the search's picture.
    """
    code = trained.code
    with reading(f"{RECIPE} or {SUMMARY} ({PUBLISHED[SUMMARY]})"):
        measured = measured_of(trained.summary)
        accuracy, training = _measured(measured, trained), _training(trained)
    with reading(f"{RESULT} ({PUBLISHED[RESULT]})"):
        search = [_search(trained.search, code, picture)] if trained.search else []
    cost = code_cost(code, num_classes=num_classes, in_chans=in_chans)
    parts = [
        _metadata(name, measured, timm, licence),
        f"# {_short(name)}\n\n{_what_it_is(code, num_classes)}",
        _how_to_load(name, timm),
        accuracy,
        _network(code, cost, num_classes, in_chans),
        *search,
        training,
        _limits(trained, measured),
        f"## Licence\n\nWeights: {plain(licence or 'no licence was stated by their owner; ask before you use them')}. "
        "The code of bsszoo is under Apache-2.0.",
        f"## Citation\n\n{_CITATION}\n\nbsszoo is not by the authors of AutoBSS.",
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(name: str, measured: Iterable[Measured], timm: TimmArguments | None, licence: str | None) -> str:
    results = [
        EvalResult(
            task_type="image-classification",
            task_name="Image Classification",
            dataset_type=one_line(m.dataset_id),
            dataset_name=one_line(m.dataset),
            dataset_split=one_line(m.split),
            metric_type="accuracy",
            metric_name=f"{kind} accuracy [%]",
            metric_value=round(value, 4),
        )
        for m in measured
        for kind, value in (("top-1", m.top1), ("top-5", m.top5))
    ]
    data = ModelCardData(
        model_name=_short(name),
        license=licence,
        library_name="timm" if timm else "bsszoo",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", "bsszoo", "autobss"],
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _short(name: str) -> str:
    return name.partition("@")[0].rpartition("/")[2]


def _what_it_is(code: Code, num_classes: int) -> str:
    entry = entry_of(code)
    family = family_of(code.family).title
    named = f", the zoo's `{entry.name}`," if entry is not None else ""
    return (
        f"A {family} whose blocks are stacked by the code `{code}`{named} for {num_classes:,} classes at "
        f"{code.image_size} x {code.image_size} px."
    )


def _how_to_load(name: str, timm: TimmArguments | None) -> str:
    both = f'import bsszoo\n\nmodel = bsszoo.create("hf-hub:{name}", pretrained=True).eval()\n'
    alone = "import timm\n" if timm else "import bsszoo.nets  # tells timm how such codes are built\nimport timm\n"
    note = (
        "timm builds it by itself, without bsszoo."
        if timm
        else "timm has no arguments that give exactly these widths: bsszoo has to be installed, `pip install bsszoo`."
    )
    return (
        f"## Load it\n\n```python\n{both}```\n\nor with timm:\n\n```python\n{alone}\n"
        f'model = timm.create_model("hf-hub:{name}", pretrained=True).eval()\n'
        f"config = timm.data.resolve_model_data_config(model)  # input size, mean, deviation\n```\n\n{note}"
    )


def _measured(measured: Iterable[Measured], trained: Trained) -> str:
    rows = [(plain(m.dataset), plain(m.split), f"{m.pictures:,}", f"{m.top1:.2f}", f"{m.top5:.2f}") for m in measured]
    if not rows:
        return f"## Accuracy\n\n{_NOT_MEASURED.capitalize()}: these weights came without the record of their training."
    weights = plain((trained.summary or {}).get("weights", "last update"))
    return (
        "## Accuracy\n\n"
        + _table(("data set", "split", "pictures", "top-1 [%]", "top-5 [%]"), rows, right=3)
        + f"\n\nOf one training, with the weights of its end ({weights}). Accuracy on other data: {_NOT_MEASURED}. "
        f"Latency: {_NOT_MEASURED}."
    )


def _network(code: Code, cost: Cost, num_classes: int, in_chans: int) -> str:
    letter = family_of(code.family).letter
    rows = []
    costs = stage_costs(code, num_classes=num_classes, in_chans=in_chans)
    for stage, row in zip(stages_of(code, num_classes=num_classes, in_chans=in_chans), costs, strict=False):
        size = ABSENT if stage.first.pooled else f"{row.size[0]}x{row.size[1]}"
        third = (inner(stage),) if letter else ()
        rows.append(
            (
                row.name,
                operator(stage),
                size,
                str(row.width),
                str(row.depth),
                *third,
                human(row.cost.macs),
                percent(row.cost.macs, cost.macs),
                human(row.cost.params),
            )
        )
    head = ("module", "operator", "output [px]", "C", "L", *((letter,) if letter else ()), "MACs", "share", "params")
    legend = {"": "", "B": ", B bottleneck width", "T": ", T expansion factor"}[letter]
    return (
        f"## The network\n\n| | |\n|---|---|\n| code | `{code}` |\n"
        f"| MACs (multiply-adds; the FLOPs of the AutoBSS paper) | {human(cost.macs)}, exactly {cost.macs:,} |\n"
        f"| 2 x MACs (what some tools call FLOPs) | {human(cost.macs2)} |\n"
        f"| parameters | {human(cost.params)}, exactly {cost.params:,} |\n"
        f"| activations (outputs of all convolutions) | {human(cost.activations)} |\n"
        f"| input | {in_chans} x {code.image_size} x {code.image_size} |\n\n"
        + _table(head, rows, right=2)
        + f"\n\nC output channels, L blocks{legend}."
    )


def _search(search: Search, code: Code, picture: str | None) -> str:
    result = without_paths(search.result)
    budget, told = result["budget"], result["evaluator"]
    limits = [f"at most {_count(budget['macs'])} MACs and at least {_count(budget['min_macs'])}"]
    limits += [f"at most {_count(budget[key])} {key}" for key in ("params", "activations") if budget.get(key)]
    limits += [f"at most {_number(budget['latency_ms'])} ms"] if budget.get("latency_ms") else []
    rows = [
        (
            plain(n["label"]) + (" (this network)" if Code.parse(n["code"]).entries == code.entries else ""),
            code_text(str(Code.parse(n["code"]))),
            _count(n["macs"]),
            _count(n["params"]),
            score(n["score"]),
        )
        for n in result["networks"]
    ]
    trials = result["trials"]
    text = (
        f"## How the code was found\n\nFrom {plain(result['reference'])} under a budget of {', '.join(limits)}, among "
        f"{count_in(result, 'candidates'):,} candidates drawn from {family_of(result['family']).title}'s grid at scale "
        f"{_number(result['scale'])}, with seed {count_in(result, 'seed')} and "
        f"{count_in(trials, 'complete') + count_in(trials, 'failed')} evaluations ({trials['failed']} failed)."
        f"\n\nScore: {plain(told['measures'])} ({code_text(told['name'])})."
    )
    text += f" {plain(told['caution'])}" if told.get("caution") else ""
    text += "\n\n" + _table(("network", "code", "MACs", "params", "score"), rows, right=2)
    sizes = sorted({Code.parse(n["code"]).image_size for n in result["networks"]})
    text += "\n\nMACs and parameters here are those for 1,000 classes at " + (
        f"{sizes[0]} px." if len(sizes) == 1 else "each network's own size."
    )
    text += f"\n\n![Every evaluation of the search in order, and the best so far]({picture})" if picture else ""
    confirmed = result.get("confirmation")
    if confirmed:
        tests = [
            (plain(n["label"]), code_text(str(Code.parse(n["code"]))), _results(n["tests"]) or "every training failed")
            for n in confirmed["networks"]
        ]
        text += (
            f"\n\n**Beside controls at its budget**: {plain(confirmed['measures'])}.\n\n"
            + _table(("network", "code", "results [%]"), tests, right=9)
            + "".join(f"\n\n{plain(verdict)}" for verdict in confirmed["verdicts"])
        )
    text += "".join(f"\n\nNote: {plain(note)}" for note in result["notes"])
    return text + "\n\nAll evaluations: `search_trials.csv`; the whole result: `search.json`."


def _training(trained: Trained) -> str:
    summary = trained.summary
    if trained.recipe is None or summary is None:
        return (
            "## Training\n\nNot recorded: the weights were given as a file. How they were trained is for their "
            "owner to say."
        )
    recipe: Mapping[str, Any] = without_paths(parse_yaml(trained.recipe))
    optim, data, loss, schedule = recipe["optim"], recipe["data"], recipe["loss"], recipe["schedule"]
    rows = [
        ("data", f"{plain(summary['dataset'])}, {count_in(summary, 'train_pictures'):,} training pictures"),
        ("epochs", f"{count_in(summary, 'epochs')}, {plain(schedule['name'])} schedule"),
        (
            "optimizer",
            f"{plain(optim['name'])}, learning rate {_number(optim['lr'])}, batch "
            f"{count_in(optim, 'batch_size')}, weight decay {_number(optim['weight_decay'])}",
        ),
        ("input", f"{count_in(data, 'image_size')} px"),
        ("label smoothing", _number(loss["label_smoothing"])),
        ("began with", plain(recipe["model"].get("pretrained") or "fresh weights")),
        ("teacher", plain(loss.get("teacher") or "none")),
        ("seed", str(count_in(summary, "seed"))),
        (
            "machine",
            f"{plain(summary['device'])}, {count_in(summary, 'processes')} process"
            f"{'' if summary['processes'] == 1 else 'es'}, {plain(summary['precision'])}",
        ),
        ("versions", ", ".join(f"{plain(name)} {plain(version)}" for name, version in summary["versions"].items())),
    ]
    return (
        f"## Training\n\n{_table(('', ''), rows, right=9)}\n\nEverything else is in `recipe.yaml`, which `bsszoo "
        "train recipe.yaml --data DIR` trains again; epoch by epoch: `metrics.csv`."
    )


def _limits(trained: Trained, measured: tuple[Measured, ...]) -> str:
    points = [
        "It knows the classes and the kind of pictures that it was trained on, and gives some class for any "
        "other picture too.",
        "Costs count convolutions and the classifier, as the AutoBSS paper does; how fast a device runs them is "
        "another matter (`bsszoo measure`).",
    ]
    if measured:
        points.append("Each accuracy is of one training. Another seed gives another figure.")
    if any("held out" in m.split for m in measured):
        points.append(
            "Pictures held out of training may have guided the choice of this code; a figure on them is then "
            "somewhat too good."
        )
    if trained.search is None:
        points.append("How the code was chosen is not recorded here.")
    return "## Limits\n\n" + "\n".join(f"- {point}" for point in points) + f"\n\nWritten by bsszoo {__version__}."


def _table(head: Iterable[str], rows: Iterable[Iterable[str]], *, right: int) -> str:
    """A Markdown table whose columns from ``right`` on are set to the right."""
    cells = list(head)
    ruler = ["---:" if i >= right else "---" for i in range(len(cells))]
    lines = [f"| {' | '.join(cells)} |", f"|{'|'.join(ruler)}|"]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    return "\n".join(lines)


def _count(value: Any) -> str:
    """A count of a run's record in a few digits; a ``ValueError`` where it is none."""
    return human(count_in({"a count": value}, "a count"))


def _number(value: Any) -> str:
    """A number of a run's record; a ``ValueError`` where it is none."""
    return f"{number_in({'a number': value}, 'a number'):g}"


def _results(values: Any) -> str:
    return ", ".join(f"{number_in({'a result': value}, 'a result', most=100):.2f}" for value in values)

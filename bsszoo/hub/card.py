"""The model card: a network, the search of its code, its training, and its measurements.

Every figure is computed from the code or read from a run's files; what was not measured says so. The texts of
those files are text in the card, never markup.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from huggingface_hub import EvalResult, ModelCardData
from markupsafe import Markup

from bsszoo.codes.code import Code, stages_of
from bsszoo.codes.cost import code_cost, stage_costs
from bsszoo.codes.families import family_of
from bsszoo.codes.named import entry_of
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
from bsszoo.report import figures
from bsszoo.report.tables import inner, operator
from bsszoo.texts import one_line, parse_yaml
from bsszoo.train.checkpoint import RECIPE, SUMMARY
from bsszoo.version import __version__

if TYPE_CHECKING:
    from jinja2 import Environment

_MOST: Final = 2000
# What begins HTML, a link, an image, emphasis, code, a formula, a cell of a table, a mention, in CommonMark and on the
# Hub. Underscores inside of words are none of these, and names are full of them.
_MARKUP: Final = re.compile(r"[\\`*\[\]<>&|~$@]|(?<![^\W_])_|_(?![^\W_])")
# What readers turn into a link without markup.
_ADDRESS: Final = re.compile(r"(?<=\w):(?=//)|(?<=www)\.|(?<=mailto):|(?<=xmpp):", re.IGNORECASE)
# What makes a heading, a list, a quotation or a line of a text's first characters.
_BLOCK: Final = re.compile(r"[#+\-=>]|\d+[.)]")


def model_card(
    trained: Trained,
    name: str,
    *,
    timm: TimmArguments | None,
    num_classes: int,
    in_chans: int,
    licence: str | None = None,
    plot: str | None = None,
) -> str:
    """The text of ``README.md``: the Hub's metadata, then the card.

    Args:
        trained: The network and its records.
        name: ``org/name`` of the repository.
        timm: The arguments by which timm alone builds the network, None where it cannot.
        num_classes, in_chans: Outputs of the classifier and channels of the input.
        licence: The licence of the weights as the Hub names it; None: the card says that none was stated.
        plot: File name of the search's plot.
    """
    code, summary = trained.code, trained.summary
    family = family_of(code.family)
    size = {"num_classes": num_classes, "in_chans": in_chans}
    with reading(f"{RECIPE} or {SUMMARY} ({PUBLISHED[SUMMARY]})"):
        measured, weights = measured_of(summary), plain((summary or {}).get("weights", "last update"))
        recipe = None if trained.recipe is None else without_paths(parse_yaml(trained.recipe))
        training = _render("training.md", summary=summary, recipe=recipe)
    with reading(f"{RESULT} ({PUBLISHED[RESULT]})"):
        search = "" if trained.search is None else _search(trained.search, code, plot)
    body = _render(
        "card.md",
        name=name,
        short=_short(name),
        code=code,
        entry=entry_of(code),
        family=family,
        titles=family.titles,
        timm=timm,
        measured=measured,
        weights=weights,
        cost=code_cost(code, **size),
        stages=list(zip(stages_of(code, **size), stage_costs(code, **size), strict=False)),
        search=search,
        training=training,
        licence=licence,
        version=__version__,
        **size,
    )
    return f"{_metadata(name, measured, timm, licence)}\n\n{body}"


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


def _search(search: Search, code: Code, plot: str | None) -> str:
    result = without_paths(search.result)
    networks = [(n, Code.parse(n["code"])) for n in result["networks"]]
    confirmation = result.get("confirmation")
    return _render(
        "search.md",
        code=code,
        plot=plot,
        family=family_of(result["family"]),
        networks=networks,
        sizes=sorted({its.image_size for _, its in networks}),
        confirmation=confirmation,
        confirmed=[(n, Code.parse(n["code"])) for n in confirmation["networks"]] if confirmation else [],
        scale=number_in(result, "scale"),
        complete=count_in(result, "trials", "complete"),
        failed=count_in(result, "trials", "failed"),
        **{key: count_in(result, key) for key in ("candidates", "seed")},
        **{key: result[key] for key in ("reference", "budget", "evaluator", "notes")},
    )


def _results(values: Any) -> str:
    every = [number_in({"a result": value}, "a result", most=100) for value in values]
    return ", ".join(f"{value:.2f}" for value in every) or "every training failed"


# -- texts that are no markup ---------------------------------------------------------------------------------


def plain(value: object) -> Markup:
    """A text as a part of a sentence or a cell of a table: one line, with any markup escaped.

    Raises:
        ValueError: The value is no text, as in a damaged record.

    Example:
        >>> plain("val_set <b>x</b>")
        Markup('val_set &#60;b&#62;x&#60;/b&#62;')
    """
    text = _MARKUP.sub(_entity, _line(value))
    text = _ADDRESS.sub(_entity, text)
    if begin := _BLOCK.match(text):
        head = begin.group()
        text = f"{head[:-1]}{_entity(head[-1])}{text[len(head) :]}"
    return Markup(text)


def code_text(value: object) -> Markup:
    """A text as code in a sentence or a cell of a table; what would end it is replaced."""
    text = _line(value).replace("`", "'").replace("|", "/")
    return Markup(f"`{text}`" if text else "-")


def _line(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"it has {one_line(repr(value), 60)} where a text is needed")
    return one_line(value, _MOST)


def _entity(match: re.Match[str] | str) -> str:
    # Not a backslash: inside a table it would not protect a bar, and an address could still be recognised after it.
    return f"&#{ord(match if isinstance(match, str) else match.group())};"


def _render(template: str, **values: Any) -> Markup:
    """A template in which each value is a text, by ``plain``, a whole number, or made by one of the filters below."""
    from jinja2 import UndefinedError

    try:
        return Markup(_environment().get_template(template).render(values))
    except UndefinedError as error:
        raise ValueError(str(error)) from error


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    def finalize(value: Any) -> Any:
        return value if isinstance(value, (Markup, StrictUndefined)) or type(value) is int else plain(value)

    environment = Environment(
        loader=PackageLoader("bsszoo.hub"),
        # What is no Markup yet is made so by `plain`; jinja2's own escape, for HTML, then leaves it as it is.
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )

    def markup(write: Callable[..., str]) -> Callable[..., Markup]:
        return lambda *values: Markup(write(*values))

    environment.filters |= {name: markup(getattr(figures, name)) for name in ("human", "percent", "score")}
    environment.filters |= {
        "exact": markup("{:,}".format),
        "g": markup("{:g}".format),
        "two_digits": markup("{:.2f}".format),
    }
    environment.filters |= {
        "operator": markup(operator),
        "inner": markup(inner),
        "results": markup(_results),
        "code": code_text,
    }
    environment.globals |= {"count_in": count_in, "number_in": number_in}
    return environment

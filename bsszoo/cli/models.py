"""``bsszoo list``, ``bsszoo show``, ``bsszoo cost``: the zoo's networks and their costs."""

from __future__ import annotations

import warnings
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bsszoo.cli.console import JsonOption, show_json
from bsszoo.cli.options import CodeOption
from bsszoo.errors import AssumptionWarning

if TYPE_CHECKING:
    from bsszoo.codes.detector import Detector

# Rows of `bsszoo list --budget`: a screen.
_MOST_PUBLISHED = 15

NetworkArgument = Annotated[
    str,
    typer.Argument(
        metavar="NETWORK",
        show_default=False,
        help="A name of `bsszoo list`, a code's text, a weights file, a training's folder or hf-hub:ORG/NAME.",
    ),
]
SizeOption = Annotated[
    int | None, typer.Option("--image-size", metavar="PX", help="Side of the square input; by default the network's.")
]


def list_command(
    pattern: Annotated[
        str | None, typer.Argument(help="Shell pattern, e.g. '*autobss*' (in quotes).", show_default=False)
    ] = None,
    family: Annotated[str | None, typer.Option(help="Only this family, e.g. resnet50.", show_default=False)] = None,
    pretrained: Annotated[
        bool | None,
        typer.Option("--pretrained/--not-pretrained", help="Only networks with, or without, published weights."),
    ] = None,
    codes: Annotated[bool, typer.Option("--codes", help="Print each network's code as well.")] = False,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="MACS",
            help="Instead of the zoo, networks with published ImageNet accuracies of at most so many multiply-adds, "
            "such as 150M: what a compressed network has to be better than.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the networks of the zoo with their exact costs and the paper's figures."""
    from bsszoo.models.names import find, list_models

    if budget is not None:
        if family is not None or pretrained is not None or codes:
            from bsszoo.errors import SettingsError

            raise SettingsError("--budget lists published networks, of all families: give it alone, or with a pattern.")
        _list_published(budget, pattern, as_json=as_json)
        return
    matches = [find(name) for name in list_models(pattern, family=family, pretrained=pretrained)]
    if as_json:
        rows = [
            {
                "name": e.name,
                "code": str(e.code),
                "macs": e.cost.macs,
                "two_x_macs": e.cost.macs2,
                "params": e.cost.params,
                "image_size": e.code.image_size,
                "weights": [t.tag for t in e.tags if t.published],
            }
            for e in matches
        ]
        show_json(rows)
        return
    if not matches:
        typer.echo("No network of the zoo matches.", err=True)
        raise typer.Exit(1)
    from bsszoo.cli.console import say, show
    from bsszoo.report.tables import ListRow, model_list_table

    show(
        model_list_table(
            [
                ListRow(
                    name=e.name,
                    family=e.code.family,
                    code=str(e.code),
                    macs=e.cost.macs,
                    params=e.cost.params,
                    paper=None if e.paper is None else f"{e.paper.macs} {e.paper.params}",
                    weights="timm" if any(t.published for t in e.tags) else "none published",
                    size=e.code.image_size,
                )
                for e in matches
            ],
            with_codes=codes,
        )
    )
    if any(e.code.stride_in == "1x1" for e in matches):
        from bsszoo.models.names import DETECTORS

        say(
            "Of the maskrcnn and retinanet entries these are the backbone's figures at 800 px; the paper prints the "
            f"whole detector's, which `bsszoo cost` counts: {', '.join(DETECTORS)}."
        )


def _list_published(budget: str, pattern: str | None, *, as_json: bool) -> None:
    from bsszoo.codes.published import published_within
    from bsszoo.compression.budget import parse_amount, plausible
    from bsszoo.errors import BudgetError

    if "%" in budget:
        raise BudgetError(f"--budget is {budget}; a share is one of a network: write 150M or 0.15G.")
    most = parse_amount(budget, of=0, what="--budget")
    rows = [row for row in published_within(most) if pattern is None or fnmatchcase(row.name, pattern)]
    if as_json:
        show_json(rows)
        return
    if not rows:
        hint = plausible(most, budget)
        typer.echo(
            f"No published network of at most {most:,} MACs{' matches' if pattern else ' is known'}.{hint}", err=True
        )
        raise typer.Exit(1)
    from bsszoo.cli.console import say, show
    from bsszoo.report.tables import published_table

    show(published_table(rows[:_MOST_PUBLISHED]))
    left = len(rows) - _MOST_PUBLISHED
    if left > 0:
        say(f"{left} less accurate ones are left out; --json has all.")
    say(
        "Recipes, data and image sizes differ from row to row, so differences of a point say little. timm's networks "
        "are ready: timm.create_model(NAME, pretrained=True), to be fine-tuned on your images."
    )


def show_command(
    network: NetworkArgument, image_size: SizeOption = None, code: CodeOption = None, as_json: JsonOption = False
) -> None:
    """Show a network stage by stage: operators, sizes, widths, depths, MACs and parameters."""
    from bsszoo.cli.console import say, show
    from bsszoo.codes.cost import code_cost
    from bsszoo.models.resolve import resolve
    from bsszoo.report.tables import code_summary, stage_table
    from bsszoo.spaces.space import Space

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AssumptionWarning)  # said below
        resolved = resolve(network, code=code)
    if resolved.detector is not None:
        _show_detector(resolved.detector, image_size, as_json=as_json)
        return
    named, entry = resolved.code, resolved.entry
    sizes = {"num_classes": resolved.num_classes, "in_chans": resolved.in_chans}
    if as_json:
        from bsszoo.codes.cost import stage_costs

        whole = {"network": network, "code": str(named), "image_size": image_size or named.image_size, **sizes}
        show_json(
            whole | {"cost": code_cost(named, image_size, **sizes), "stages": stage_costs(named, image_size, **sizes)}
        )
        return
    if resolved.source is not None:
        say(
            f"Recognised: {resolved.recognised}; {resolved.num_classes} classes, {resolved.in_chans} input channels", ""
        )
    show(
        code_summary(named, code_cost(named, image_size, **sizes), image_size),
        "",
        stage_table(named, image_size, totals_explained=False, **sizes),
    )
    if entry is not None and entry.paper is None:
        say("", f"In the zoo as {entry.name}: {entry.title}, timm's network of that name.")
    elif entry is not None and entry.paper is not None:
        say(
            "",
            f"In the zoo as {entry.name}: {entry.paper.place}, printed there as {entry.paper.macs} FLOPs and "
            f"{entry.paper.params} parameters.",
            *(f"- {note}" for note in entry.notes),
        )
    reasons = Space.of(named.family).reasons(named)
    if reasons:
        say("", "Outside the ranges of the family's search space (it builds all the same): " + "; ".join(reasons) + ".")


def _show_detector(detector: Detector, image_size: int | None, *, as_json: bool) -> None:
    from bsszoo.cli.console import say, show
    from bsszoo.codes.detector import SIZE, backbone_cost, detector_cost, detector_layers
    from bsszoo.report.tables import cost_line, detector_table, stage_table

    size = image_size or SIZE
    cost = detector_cost(detector, size)
    if as_json:
        from bsszoo.codes.cost import stage_costs

        stages = stage_costs(detector.backbone, size, num_classes=0)
        whole = {"code": str(detector), "image_size": size, "num_classes": detector.num_classes, "cost": cost}
        show_json(whole | {"stages": stages, "layers": detector_layers(detector, size)})
        return
    show(
        f"{detector.title}: {detector.backbone}",
        f"at {size} x {size} px, {detector.num_classes} classes",
        cost_line(cost),
        "",
        "The backbone, without the layers behind its features:",
        cost_line(backbone_cost(detector.backbone, size)),
        stage_table(detector.backbone, size, num_classes=0, totals_explained=False),
        "",
        detector_table(detector_layers(detector, size)),
    )
    say(
        "",
        "Counted as the paper counts: of Mask R-CNN the MACs of backbone, pyramid and region proposals and the "
        "parameters of everything, of RetinaNet everything.",
    )


def cost_command(
    networks: Annotated[
        list[str],
        typer.Argument(
            metavar="NETWORK...", help="As of `bsszoo show`: names, codes, files, folders.", show_default=False
        ),
    ],
    image_size: SizeOption = None,
    num_classes: Annotated[
        int | None,
        typer.Option(
            show_default="1000; of detectors 91 or 80", help="Outputs of the classifier; 0 counts without one."
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Build each network and count again with thop; a difference is an error.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print what networks cost: MACs (the paper's FLOPs), 2 x MACs, parameters, activations.

    Detectors are counted at 800 px, as the paper counts them: bsszoo cost maskrcnn_resnet50_autobss
    """
    from bsszoo.models.resolve import cost, resolve
    from bsszoo.report.figures import sizes_differ

    rows: list[dict[str, Any]] = []
    sizes: list[int] = []
    for network in networks:
        resolved = resolve(network)
        detector = resolved.detector
        classes = resolved.num_classes if num_classes is None else num_classes
        sizes.append(image_size or resolved.image_size)
        figures = cost(
            detector or resolved.code,
            image_size,
            num_classes=classes,
            in_chans=None if detector is not None else resolved.in_chans,
        )
        rows.append(
            {
                "network": network,
                "image_size": sizes[-1],
                "code": str(detector or resolved.code),
                "macs": figures.macs,
                "two_x_macs": figures.macs2,
                "params": figures.params,
                "activations": figures.activations,
            }
        )
        if not as_json:
            from bsszoo.cli.console import show
            from bsszoo.report.tables import cost_line

            show(
                f"{network}, at {sizes[-1]} x {sizes[-1]} px:",
                cost_line(figures),
                f"exactly: MACs {figures.macs}, params {figures.params}, activations {figures.activations}",
            )
        if check and detector is not None:
            from bsszoo.errors import SettingsError

            raise SettingsError("--check counts classifiers again with thop; it does not support detectors.")
        if check:
            from bsszoo.models.build import recount

            macs, params = recount(resolved.code, image_size, num_classes=classes, in_chans=resolved.in_chans)
            rows[-1]["thop_macs"], rows[-1]["built_params"] = macs, params
            if not as_json:
                show(
                    f"counted again by thop on the built network: MACs {macs}, params {params}: "
                    + ("equal" if (macs, params) == (figures.macs, figures.params) else "DIFFERENT")
                )
            if (macs, params) != (figures.macs, figures.params):
                from bsszoo.errors import RunError

                raise RunError(
                    f"{network}: the formula gives {figures.macs} MACs and {figures.params} params, the "
                    f"built network {macs} and {params}. This is a bug of bsszoo: please report it."
                )
    if as_json:
        show_json(rows)
    elif differ := sizes_differ(sizes):
        from bsszoo.cli.console import say

        say("", f"{differ} --image-size PX counts all of them at one.")

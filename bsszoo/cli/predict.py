"""``bsszoo predict``: predictions of a network, drawn on images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bsszoo.cli.console import JsonOption, show_json
from bsszoo.texts import one_line


def predict_command(
    what: Annotated[
        str,
        typer.Argument(
            metavar="NAME_OR_RUN",
            show_default=False,
            help="A name of `bsszoo list`, a code's text, a detector "
            "(maskrcnn_resnet50), hf-hub:ORG/NAME, or the folder of a training.",
        ),
    ],
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", show_default=False, help="Images, or folders of them.")
    ],
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="WEIGHTS",
            show_default="published ones, the training's",
            help="Of a name or a code: a tag, hf-hub:org/name, local-dir:PATH or a file; of a detector a "
            "file, a training's folder, or torchvision.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the drawn images.")] = Path("predictions"),
    top: Annotated[int, typer.Option(metavar="N", help="Of a classifier: labels of each image.")] = 5,
    least_score: Annotated[
        float, typer.Option(metavar="SHARE", help="Of a detector: least score of an object that is drawn.")
    ] = 0.5,
    device: Annotated[
        str | None,
        typer.Option(
            "--device", metavar="DEVICE", show_default="a GPU where there is one", help="cpu, cuda, cuda:1, mps."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw a network's predictions on images: boxes and masks of a detector, the first labels of a classifier.

    Each image becomes a PNG file in the folder; predictions.json there holds the same as values.

    Examples:

      bsszoo predict resnet50 cat.jpg

      bsszoo predict runs/maskrcnn street.jpg pictures/ --least-score 0.7

      bsszoo predict maskrcnn_resnet50_c256-512-1024-2048_l3-4-6-3_b64-128-256-512_px800 --weights torchvision a.jpg
    """
    from bsszoo.cli.console import show
    from bsszoo.predict import predict, write_predictions

    number, values = 0, []
    predictions = predict(what, images, weights=weights, top=top, least_score=least_score, device=device)
    for number, prediction in enumerate(write_predictions(predictions, out), start=1):  # noqa: B007  the count is printed
        if as_json:
            values.append(prediction.to_dict())
        else:
            show(one_line(f"{prediction.file}: {prediction}", 2000))  # labels may be a repository's
    if as_json:
        show_json(values)
        return
    show(f"Drawn: {number} image{'' if number == 1 else 's'} in {out}")

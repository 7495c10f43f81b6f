"""``bsszoo export``: a network as a file for other runtimes, or as arguments of timm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from bsszoo.cli.console import JsonOption, show_json
from bsszoo.cli.options import CodeOption

if TYPE_CHECKING:
    from bsszoo.export import Exported, ExportedInt8

# Of a network whose classes in int8 are those in float32 for fewer images than this share, the command says so.
_ALIKE: Final = 0.95
SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME_OR_CHECKPOINT",
        show_default=False,
        help="A name of `bsszoo list`, a code's text, hf-hub:ORG/NAME, a training's folder, or a weights file.",
    ),
]


def export_command(
    source: SourceArgument,
    format: Annotated[
        str,
        typer.Option(
            "--format", metavar="FORMAT", help="onnx, openvino, litert (one image at a time), or torch (torch.export)."
        ),
    ] = "onnx",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", show_default="NAME.onnx, .xml, .tflite or .pt2", help="The file.")
    ] = None,
    fp16: Annotated[
        bool, typer.Option("--fp16", help="Weights in float16, and in onnx and torch the arithmetic.")
    ] = False,
    quantize: Annotated[
        str | None,
        typer.Option(
            "--quantize",
            metavar="int8",
            show_default=False,
            help="Weights and activations of 8 bits, by the format's own tool, calibrated on up to 256 of --images: "
            "pictures like those that the network is for.",
        ),
    ] = None,
    opset: Annotated[int, typer.Option(help="ONNX operator set, 18 to 23.")] = 18,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="WEIGHTS",
            show_default="published ones, the training's",
            help="Of a name or a code: a tag, hf-hub:org/name, local-dir:PATH or a file.",
        ),
    ] = None,
    random: Annotated[bool, typer.Option("--random", help="Random weights, to try a runtime with.")] = False,
    code: CodeOption = None,
    num_classes: Annotated[
        int | None, typer.Option(metavar="N", show_default="the weights'", help="Outputs of the classifier.")
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(
            "--images",
            metavar="PATH",
            show_default="two bundled photographs",
            help="Images, or folders of them, to check on, and with --quantize to calibrate on. May be repeated.",
        ),
    ] = None,
    bound: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            show_default="0.0001, with --fp16 0.02",
            help="Largest difference from PyTorch, as a share of the largest output.",
        ),
    ] = None,
    timm: Annotated[
        bool, typer.Option("--timm", help="Print how timm alone builds the network, and write nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a network as a file of another runtime, checked against PyTorch on random and on real images.

    The file takes any batch size, with --format litert one image, float32, normalised. If its outputs
    differ by more than rounding, no file is left.

    Examples:

      bsszoo export runs/first --out shoes.onnx

      bsszoo export resnet50.a1_in1k --format openvino

      bsszoo export mobilenetv2_autobss --random --fp16

      bsszoo export runs/first --quantize int8 --images pictures/train

      bsszoo export efficientnet_b1_autobss --timm
    """
    from bsszoo.cli.console import progress_console, say, show
    from bsszoo.errors import SettingsError, WeightsError
    from bsszoo.models.resolve import resolve

    network = resolve(source, code=code)
    named = network.classifier
    if timm:
        from bsszoo.models.timm_arguments import timm_arch_def, timm_arguments, timm_cfgs

        form = timm_arguments(named) or timm_arch_def(named) or timm_cfgs(named)
        if form is None:
            raise SettingsError(
                f"timm has no arguments that build exactly {named}: it rounds widths, or ties them to "
                "each other. With `import bsszoo.nets`, timm.create_model('bsszoo_code', code=..) "
                "does."
            )
        show(form.script(network.num_classes if num_classes is None else num_classes, network.in_chans).rstrip())
        return
    from bsszoo.export import export, export_int8, file_name
    from bsszoo.models.create import create
    from bsszoo.report.figures import human

    if random and weights is not None:
        raise SettingsError("--random and --weights exclude each other.")
    if quantize is not None:
        _check_quantisation(quantize, format, fp16, images)
    target = out or Path(file_name(source, format, int8=quantize is not None))
    try:
        built = create(
            source if code is None else network,
            pretrained=False if random else weights or True,
            num_classes=num_classes,
        )
    except WeightsError as error:
        if weights is None and not random:
            raise WeightsError(f"{error} On this command line: --weights SOURCE, or --random.") from error
        raise
    progress_console().print(f"Exporting {named} and checking the file ...", markup=False)
    if quantize is not None and images:
        quantised = export_int8(
            built.eval(),
            target,
            images,
            format=format,  # type: ignore[arg-type]
            opset=opset,
            bound=bound,
            label=str(named),
        )
        if as_json:
            show_json(quantised)
        else:
            say(*_quantised_words(quantised))
        return
    done = export(
        built.eval(),
        target,
        format=format,  # type: ignore[arg-type]
        half=fp16,
        opset=opset,
        images=images or None,
        bound=bound,
        label=str(named),
    )
    if as_json:
        show_json(done)
        return
    say(
        f"File: {_kind(done.files, done)}, {human(done.size)} bytes, {'float16' if done.half else 'float32'})",
        _input_words(done, done.free_batch),
    )
    say(
        f"Largest difference from PyTorch: {done.random:.2g} on random images"
        + (
            ""
            if done.real is None
            else f", {done.real:.2g} on {len(done.images)} real ones"
            f" ({', '.join(done.images[:3])}{', ..' if len(done.images) > 3 else ''})"
        )
        + f", where the largest output is {done.largest:.3g}: {done.share:.1g} of it"
    )
    if num_classes is not None and not random:
        say(f"Its classifier is freshly initialised unless the weights have {num_classes} classes.")
    if random:
        say("Its weights are random: it is for trying a runtime, not for use.")


def _check_quantisation(precision: str, format: str, half: bool, images: list[str] | None) -> None:
    """A ``SettingsError`` where a network cannot be quantised so."""
    from bsszoo.errors import SettingsError
    from bsszoo.formats import FORMATS, QUANTISED, either
    from bsszoo.options import check_precision

    check_precision(precision)
    if format not in QUANTISED:
        raise SettingsError(f"--quantize takes the formats {either(QUANTISED)}, not {format!r}.")
    if half:
        raise SettingsError("--quantize quantises float32: leave out --fp16.")
    if not images:
        raise SettingsError(
            "--quantize calibrates on pictures like those that the network is for: give some hundreds, --images DIR."
        )
    FORMATS[format].check(quantises=True)


def _kind(files: Sequence[Path], done: Exported) -> str:
    """The names of files and the format that they have, up to a bracket that is still open."""
    from bsszoo.formats import FORMATS

    title = FORMATS[done.format].title
    names = " and ".join(str(file) for file in files)
    return f"{names} ({title}" + ("" if done.opset is None else f", operator set {done.opset}")


def _input_words(done: Exported, free_batch: bool) -> str:
    channels, height, width = done.input_shape
    batch, many = ("batch", "any batch") if free_batch else ("1", "one image at a time")
    return (
        f"Input: images [{batch}, {channels}, {height}, {width}] float32, mean {list(done.mean)}, deviation "
        f"{list(done.std)}; output: logits [{batch}, {done.outputs}] float32; {many}"
    )


def _quantised_words(done: ExportedInt8) -> tuple[str, ...]:
    from bsszoo.report.figures import human

    file, found = done.file, done.compared
    share = found.agree / found.images
    which = "other images" if done.unseen else "the same images"
    words = (
        f"File: {_kind(file.files, done.exported)}, int8, {human(file.size)} bytes; in float32 "
        f"{human(file.float_size)})",
        _input_words(done.exported, file.free_batch),
        f"Calibrated on {file.calibrated} images. On {found.images} {which} it has the class of the float32 file for "
        f"{100 * share:.1f}%; outputs differ by up to {found.difference:.2g}, the largest is {found.largest:.3g}.",
    )
    return words if share > _ALIKE else (*words, "It quantises badly: measure its accuracy before you use it.")

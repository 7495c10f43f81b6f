"""``resolve``: the network that a name, text, file, folder, repository, code or module stands for.

A name and a code's text are resolved without torch; a file, a folder and a repository are read.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bsszoo.codes.code import Code
from bsszoo.codes.cost import Cost, ImageSize, code_cost
from bsszoo.codes.detector import SIZE, Detector, detector_cost
from bsszoo.codes.families import family_of
from bsszoo.errors import AssumptionWarning, CodeError, SettingsError, UnknownNameError, WeightsError, formatted
from bsszoo.models.names import (
    LOCAL,
    SOURCES,
    SUFFIXES,
    ModelEntry,
    entries,
    entry_of,
    find_detector,
    hub_org,
    is_detector,
    is_timms,
    no_classifier,
    resolve_code,
    split_tag,
)
from bsszoo.models.nearest import shapes_of

if TYPE_CHECKING:
    from torch import nn

_RESULT, _RECIPE, _CONFIG, _WEIGHTS = "result.json", "recipe.yaml", "config.json", "model.safetensors"
_RECOMMENDED = "recommended"
_FORMS: Final = (
    "Give a name of `bsszoo list`, a code's text, a weights file, a training's folder, hf-hub:ORG/NAME or "
    "local-dir:PATH."
)


@dataclass(frozen=True, slots=True)
class Network:
    """A resolved network.

    ``code`` is its code, of a detector the backbone's. ``source`` says where its weights are, as
    ``bsszoo.create(pretrained=..)`` takes it (``hf-hub:..``, ``local-dir:..``, a file's path), None of a name or a code
    alone. ``config`` holds entries of timm's ``default_cfg`` that came with it (input size, mean, std, label names),
    ``module`` the built network where ``resolve`` got one. ``recognised`` describes it in words, ``assumed`` what of it
    no tensor of a weights file shows (empty where it is nothing).
    """

    code: Code
    recognised: str
    detector: Detector | None = None
    source: str | None = None
    entry: ModelEntry | None = None
    tag: str | None = None
    num_classes: int = 1000
    in_chans: int = 3
    config: Mapping[str, Any] = field(default_factory=dict)
    module: nn.Module | None = None
    assumed: str = ""

    @property
    def image_size(self) -> int:
        """Side of its input [px]."""
        return SIZE if self.detector is not None else self.code.image_size

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """The names of its outputs, None without."""
        names = self.config.get("label_names")
        return tuple(names) if isinstance(names, (list, tuple)) else None

    @property
    def classifier(self) -> Code:
        """The code of a classifier; an ``UnknownNameError`` of a detector."""
        if self.detector is not None:
            raise no_classifier(str(self.detector))
        return self.code

    def check_size(self) -> None:
        """A ``WeightsError`` where a repository or a folder names a network too large to be built without weights."""
        if self.source is not None and self.source.startswith(SOURCES):
            from bsszoo.models.weights import check_size

            check_size(self.detector or self.code, self.source)


def resolve(
    what: object, *, code: str | Code | None = None, org: str | None = None, cache_dir: str | Path | None = None
) -> Network:
    """The network that a value stands for.

    Args:
        what: A name of the zoo or ``name.tag``; a code's text or a ``Code``; a detector's name or a ``Detector``; a
            weights file of timm, torchvision or bsszoo, whose code is read off its shapes; the folder of a training, of
            a pulled network or of a search (the best code, with its weights if it was trained in full);
            ``hf-hub:org/name[@revision]``; ``local-dir:PATH``; a built ``torch.nn.Module``; or a ``Network``, which
            stays as it is.
        code: The network of a weights file, where its shapes do not determine it; of nothing else.
        org: As in ``bsszoo.create``.
        cache_dir: As in ``bsszoo.create``.

    Raises:
        UnknownNameError: There is no such name, file or folder.
        CodeError: The text describes an impossible code, ``what`` does not name a network, or ``code`` comes with
            something else than a file.
        WeightsError: A file or a folder holds no network of the families, or it cannot be read.
        SettingsError: A folder holds no finished network.

    Example:
        >>> resolve("resnet34").recognised
        'resnet34 of the zoo, resnet18_c64-128-256-512_l3-4-6-3'
    """
    if code is not None and not (isinstance(what, (str, Path)) and _is_file(str(what).strip())):
        known = resolve(what, org=org, cache_dir=cache_dir)
        raise CodeError(f"--code is the network of a weights file, and {known.recognised} has a code.")
    if isinstance(what, Network):
        return what
    if isinstance(what, Code):
        return Network(what, f"the code {what}", entry=entry_of(what))
    if isinstance(what, Detector):
        return _detector(what, str(what))
    if any(base.__module__ == "torch.nn.modules.module" for base in type(what).__mro__):
        return _of_module(what)
    if not isinstance(what, (str, Path)):
        raise CodeError(
            f"A network is named by a zoo name, a code's text, a bsszoo.Code, a file or a folder; got "
            f"{formatted(what)} of type {type(what).__name__}."
        )
    text = str(what).strip()
    if text.startswith(SOURCES):
        return _saved(text, cache_dir)
    path = Path(text).expanduser()
    if path.is_dir() and (isinstance(what, Path) or not _is_name(text)):
        return _folder(path)
    if _is_file(text):
        return _file(path, code)
    return _named(text, path, org, cache_dir)


def _is_file(text: str) -> bool:
    """Whether a text is the path of a weights file, that is or that should be there."""
    path = Path(text).expanduser()
    return path.is_file() or (path.suffix in SUFFIXES and not path.is_dir() and not _is_name(text))


def _is_name(text: str) -> bool:
    """Whether a text is a name of the zoo, which has precedence over a folder of the same name."""
    head = split_tag(text)[0]
    return "/" not in text and (head in entries() or head.lower() in entries())


def _detector(detector: Detector, named: str) -> Network:
    return Network(detector.backbone, f"the detector {named}", detector, num_classes=detector.num_classes)


def _named(text: str, path: Path, org: str | None, cache_dir: str | Path | None) -> Network:
    if is_detector(text):
        detector = find_detector(text)
        if detector is None:
            raise UnknownNameError(f"{text!r} names no detector; names are maskrcnn_.. and retinanet_.., then a code.")
        return _detector(detector, text)
    head, tag = split_tag(text)
    in_zoo = head.lower() in entries()
    org = hub_org(org)
    try:
        # An organisation may have further tags.
        code = resolve_code(head if in_zoo and org is not None else text)
    except UnknownNameError as error:
        timms = not in_zoo and is_timms(head)
        if org is not None:
            try:
                return _saved(f"hf-hub:{org}/{text}", cache_dir)
            except WeightsError as other:
                if not timms:
                    raise WeightsError(f"{error} And {org} has no such network: {other}") from other
        if timms:
            return _of_timm(text, error)
        if len(path.parts) > 1:
            raise UnknownNameError(
                f"There is no file or folder {text!r}, and no network of that name. {_FORMS}"
            ) from error
        raise
    entry = entry_of(code)
    words = f"{entry.name} of the zoo, {code}" if in_zoo and entry is not None else f"the code {code}"
    return Network(code, words, entry=entry, tag=tag if in_zoo else None)


def _of_timm(name: str, unknown: UnknownNameError) -> Network:
    """A network of timm outside the zoo, where it is of one of the families; else the error is raised."""
    import timm
    import torch

    from bsszoo.texts import one_line

    try:
        network = _of_module(timm.create_model(name, device=torch.device("meta")))
    except (WeightsError, TypeError):  # of no family, or timm's constructor takes no device
        raise unknown from None
    except RuntimeError as error:  # no such tag
        raise UnknownNameError(f"timm has no weights of that name: {one_line(error, 300)}") from error
    repository = network.config.get("hf_hub_id") if split_tag(name)[1] is not None else None
    source = None if repository is None else f"hf-hub:{repository}"
    return replace(network, module=None, source=source, recognised=f"timm's {name}, {network.code}")


def with_weights(network: Network, folder: Path) -> Network:
    """The network with a source of its weights, where it has any: a tag's repository, a built module's own.

    Args:
        network: As ``resolve`` gave it.
        folder: Where a module's weights are written, named after their SHA-256.

    Raises:
        UnknownNameError, WeightsError: The tag's repository does not exist or cannot be reached.
    """
    if network.source is not None or network.detector is not None:
        return network
    if network.module is not None:
        return replace(network, source=_written(network.module, folder))
    if network.entry is None or network.tag is None:
        return network
    from bsszoo.models.weights import repository_of

    return replace(_saved(repository_of(network.entry, network.tag)), entry=network.entry, tag=network.tag)


def _written(module: Any, folder: Path) -> str:
    """A file of a module's weights, in float32."""
    import hashlib

    from safetensors.torch import save

    from bsszoo.files import whole_file

    state = {
        name: (tensor.float() if tensor.is_floating_point() else tensor).detach().cpu().contiguous().clone()
        for name, tensor in module.state_dict().items()
    }
    content = save(state, metadata={"format": "pt"})
    file = folder / f"{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    if not file.is_file():
        with whole_file(file) as scratch:
            scratch.write_bytes(content)
    return str(file)


def _saved(source: str, cache_dir: str | Path | None = None) -> Network:
    """The network of a repository or a folder, by its ``config.json``."""
    from bsszoo.models.saved_config import code_in, config_from, sizes_in
    from bsszoo.models.weights import saved_config

    if source.startswith(LOCAL):
        detector = _saved_detector(Path(source.removeprefix(LOCAL)).expanduser(), source)
        if detector is not None:
            return detector
    file, label = saved_config(source, cache_dir)
    code = code_in(file, label)
    classes, channels = sizes_in(file, label)
    return Network(
        code,
        f"{code}, as the config.json of {label} says",
        source=source,
        entry=entry_of(code),
        num_classes=classes,
        in_chans=channels,
        config=config_from(file, code, label),
    )


def _saved_detector(folder: Path, source: str) -> Network | None:
    from bsszoo.models.detector import saved_detector

    saved = saved_detector(folder)
    if saved is None:
        return None
    detector = saved.detector
    return Network(
        detector.backbone,
        f"{detector}, as the config.json of {folder} says",
        detector,
        source,
        num_classes=detector.num_classes,
    )


def _folder(folder: Path) -> Network:
    """The network of a training, a pulled network, a folder written by timm, or a search."""
    if (folder / _CONFIG).is_file():
        return _saved(f"{LOCAL}{folder}")
    if (folder / _RECIPE).is_file():
        if not (folder / _WEIGHTS).is_file():
            raise SettingsError(
                f"The training in {folder} is not finished; the same `bsszoo train` command resumes it."
            )
        return _file(folder / _WEIGHTS, None)
    if (folder / _RESULT).is_file():
        return _best_of(folder)
    if (folder / _WEIGHTS).is_file():
        return _file(folder / _WEIGHTS, None)
    raise SettingsError(
        f"There is no network in {str(folder)!r}: it has no {_CONFIG}, {_WEIGHTS} or {_RESULT}. "
        "Folders of `bsszoo train`, `bsszoo pull`, `bsszoo compress` and timm.models.save_for_hf have "
        "one."
    )


def _best_of(run: Path) -> Network:
    """The network that a search recommends: with weights where it was trained; of old results the best code.

    One that was trained in full comes first.
    """
    from bsszoo.texts import inner_path, one_line, parse_json

    file = run / _RESULT
    try:
        data = parse_json(file.read_text(encoding="utf-8"))
        best, taken = data["best"]["code"], data.get("recommended") or {}
        take = taken.get("code", best)
        code = resolve(str(take))
        inside = (data.get("finished") or {}).get("folder")
        inside = None if inside is None else inner_path(inside, "finished.folder")
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise WeightsError(
            f"{file} cannot be read as a search's result ({one_line(error)}). The same `bsszoo "
            "compress` command rewrites it."
        ) from error
    which = "the best code of" if take == best else "recommended by"
    if inside is not None and (run / inside / _CONFIG).is_file():
        trained = _saved(f"{LOCAL}{run / inside}")
        return replace(trained, recognised=f"{trained.code}, {which} the search in {run}, trained in full")
    if taken.get("weights") and (run / _RECOMMENDED / _CONFIG).is_file():
        trained = _saved(f"{LOCAL}{run / _RECOMMENDED}")
        if _alike(trained.code, code.code):
            return replace(trained, recognised=f"{trained.code}, {which} the search in {run}, trained")
    return replace(code, recognised=f"{take}, {which} the search in {run}, which has no weights")


def _file(path: Path, override: str | Code | None) -> Network:
    """The network of a weights file: as specified, as the ``config.json`` beside it says, or read off its shapes."""
    from bsszoo.models.loading import check_file, recognise_file
    from bsszoo.models.saved_config import same_network

    if not path.is_file():
        raise UnknownNameError(f"There is no file {str(path)!r}.")
    saved = _beside(path, override)
    if override is not None:
        code = resolve_code(override)
        classes, channels = check_file(path, code, str(path))
        config: Mapping[str, Any] = {}
        if saved is not None and same_network(saved.code, code):
            config = saved.config
            # A code that is written without its image's size has the family's.
            code = code if family_of(code.family).sized else replace(code, image_size=saved.code.image_size)
        return _of_file(path, code, f"{code}, as specified for {path}", (classes, channels), config)
    if saved is not None:
        with suppress(WeightsError):
            sizes = check_file(path, saved.code, str(path))
            return _of_file(
                path,
                saved.code,
                f"{_named_code(saved.code)}, as the config.json beside {path} says",
                sizes,
                saved.config,
            )
    recognised = recognise_file(path)
    code = recognised.code
    words = f"{_named_code(code)}, read off the shapes in {path}"
    for name in recognised.others:
        words += f"; {name} has the same tensors, {family_of(name).beside_tensors}: --code names it if it is that"
    assumed = family_of(code.family).assumed(code)
    if assumed:
        words += f"; its {assumed} (--code names another)"
        text = (
            f"In {path} {assumed}. Where it is otherwise, its outputs are others: name its code with --code, or give "
            "the code as the network and the file as its weights."
        )
        warnings.warn(text, AssumptionWarning, stacklevel=2)
    network = _of_file(path, code, words, (recognised.num_classes, recognised.in_chans), {})
    return replace(network, assumed=assumed)


def _named_code(code: Code) -> str:
    entry = entry_of(code)
    return f"{entry.name}, {code}" if entry is not None else str(code)


def _of_file(path: Path, code: Code, words: str, sizes: tuple[int, int], config: Mapping[str, Any]) -> Network:
    classes, channels = sizes
    return Network(
        code, words, source=str(path), entry=entry_of(code), num_classes=classes, in_chans=channels or 3, config=config
    )


def _beside(path: Path, override: str | Code | None) -> Network | None:
    """The classifier that the ``config.json`` beside a file names; None without one.

    One of another library is none, unless the file has the name of the weights that such a configuration is of.
    """
    if not (path.parent / _CONFIG).is_file():
        return None
    try:
        saved = _saved(f"{LOCAL}{path.parent}")
    except WeightsError:
        if override is None and path.name == _WEIGHTS:
            raise
        return None
    return saved if saved.detector is None else None


def _alike(one: Code, other: Code) -> bool:
    """Whether two codes have the same tensors: they may differ where tensors do not, and so may families."""
    if family_of(one.family).sized or one.family != other.family:
        return shapes_of(one, 1000, 3) == shapes_of(other, 1000, 3)
    return replace(one, image_size=other.image_size, stride_in=other.stride_in) == other


def _of_module(module: Any) -> Network:
    """The network that a built module is, by its tensors and by its ``default_cfg``."""
    from bsszoo.models.recognise import recognise, renamed

    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    recognised = recognise(renamed(shapes), f"this {type(module).__name__}", module)
    # Either may be inside a wrapper.
    configs = (getattr(part, "default_cfg", None) for part in module.modules())
    config = next(({k: v for k, v in one.items() if v is not None} for one in configs if isinstance(one, Mapping)), {})
    size = config.get("input_size")
    code = recognised.code
    sized = family_of(code.family).sized
    if not sized and isinstance(size, (list, tuple)) and len(size) == 3 and size[1] == size[2]:
        code = replace(code, image_size=int(size[1]))
    declared = (getattr(part, "code", None) for part in module.modules())
    code = next((one for one in declared if isinstance(one, Code) and _alike(one, code)), code)
    return Network(
        code,
        f"{code}, read off the shapes of a {type(module).__name__}",
        entry=entry_of(code),
        num_classes=recognised.num_classes,
        in_chans=recognised.in_chans or 3,
        config=config,
        module=module,
    )


def cost(
    network: str | Path | Code | Detector | Any,
    image_size: ImageSize | None = None,
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
) -> Cost:
    """The exact MACs, parameters and activations of a network, from its code alone.

    A detector (``maskrcnn_resnet50``, ..) is counted as the paper counts it: ``codes.detector``.

    Args:
        network: Whatever ``bsszoo.models.resolve`` takes.
        image_size: Side of the square input, or (height, width) [px]; by default the network's.
        num_classes: Outputs of the classifier; 0 counts the network without one. By default the network's: 1000 of
            a name or a code; a detector's are 91 (Mask R-CNN) or 80 (RetinaNet).
        in_chans: Channels of the input; by default the network's, 3 of a name or a code.

    Raises:
        UnknownNameError, CodeError, WeightsError, SettingsError: As ``resolve``; ``CodeError`` also for impossible
            sizes.

    Example:
        >>> cost("resnet18").macs
        1814073344
    """
    resolved = resolve(network)
    if resolved.detector is not None:
        if in_chans not in (None, 3):
            raise CodeError("Detectors take images of 3 channels.")
        detector = (
            resolved.detector if num_classes is None else replace(resolved.detector, num_classes=num_classes or -1)
        )
        return detector_cost(detector, SIZE if image_size is None else image_size)
    return code_cost(
        resolved.code,
        image_size,
        num_classes=resolved.num_classes if num_classes is None else num_classes,
        in_chans=resolved.in_chans if in_chans is None else in_chans,
    )

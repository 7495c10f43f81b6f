"""Where weights come from: the Hub, your own organisation, a folder or a file. Never silently random ones."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg

from bsszoo.codes.code import Code
from bsszoo.codes.cost import code_cost
from bsszoo.codes.detector import Detector, detector_cost
from bsszoo.codes.named import ModelEntry, WeightTag, named_entries
from bsszoo.errors import UnknownNameError, WeightsError, close_matches
from bsszoo.models.hub_files import PICKLES, WEIGHTS_FILE, HubRepository, forget, hub_file
from bsszoo.models.names import SUFFIXES
from bsszoo.models.saved_config import checksum_in, config_from, same_network

#: The default tag in an organisation, for a network without tags in the zoo.
DEFAULT_TAG: Final = "in1k"
# Ten times the zoo's largest, 2 GB in float32.
_MOST_PARAMS: Final = 500_000_000


@dataclass(frozen=True, slots=True)
class Weights:
    """A weights file on this machine.

    ``label`` names it in messages; ``config`` holds the entries of timm's ``default_cfg`` that came with it (input
    size, normalisation, ...), empty without; ``cached`` says that it is a file of the Hub's cache.
    """

    path: Path
    label: str
    config: Mapping[str, Any] = field(default_factory=dict)
    cached: bool = False


def fetch(
    pretrained: bool | str | Path,  # noqa: FBT001 - a source, of which True is the default one
    code: Code,
    entry: ModelEntry | None,
    tag: str | None = None,
    *,
    org: str | None = None,
    cache_dir: str | Path | None = None,
) -> Weights:
    """The weights that ``pretrained`` means for a code, fetched from the Hub where they are not in its cache.

    Args:
        pretrained: True (the tag, or the default one), a tag, ``hf-hub:org/name[@revision]``, ``local-dir:PATH`` or
            the path of a file or of such a folder.
        code: The network that is to take them.
        entry: The zoo's entry of this code, None for a custom code.
        tag: The tag that came with the name (``resnet50.a1_in1k``).
        org: The organisation whose repositories ``NAME.TAG`` hold the searched networks' weights; see ``hub_org``.
        cache_dir: Where the Hub's files are stored; huggingface_hub's cache by default.

    Raises:
        WeightsError: They do not exist, cannot be reached, or are of another network; the text says what to do.
        UnknownNameError: The entry has no such tag.
    """
    if pretrained is True:
        return _tagged(code, entry, tag, org, cache_dir)
    source = str(pretrained)
    if source.startswith("hf-hub:"):
        return _from_hub(HubRepository.parse(source.removeprefix("hf-hub:")), code, entry, cache_dir)
    if source.startswith("local-dir:"):
        return _from_folder(Path(source.removeprefix("local-dir:")).expanduser(), code)
    path = Path(source).expanduser()
    if source and path.is_dir():
        return _from_folder(path, code)
    if path.is_file():
        return Weights(path, str(path))
    if isinstance(pretrained, Path) or "/" in source or "\\" in source or source.endswith(SUFFIXES):
        raise WeightsError(
            f"There is no weights file {source!r}. Allowed are a file ({', '.join(SUFFIXES)}), a "
            f"folder with {WEIGHTS_FILE}, 'hf-hub:org/name[@revision]', 'local-dir:PATH' or a tag."
        )
    return _tagged(code, entry, source, org, cache_dir)


def check_size(network: Code | Detector, source: str) -> None:
    """A ``WeightsError`` where a repository or a folder names a network too large to be built without its weights.

    With weights it is compared with them before it is built (``loading.check_count``).
    """
    params = (code_cost(network) if isinstance(network, Code) else detector_cost(network)).params
    if params > _MOST_PARAMS:
        raise WeightsError(
            f"The config.json of {source} names a network of {params:,} parameters, and without weights "
            f"to compare it with at most {_MOST_PARAMS:,} are built. If you mean it, name it: "
            f"{network}"
        )


def saved_config(source: str, cache_dir: str | Path | None) -> tuple[Path, str]:
    """The ``config.json`` of a repository or a folder, and its label in messages.

    Args:
        source: ``hf-hub:org/name[@revision]`` or ``local-dir:PATH``.
        cache_dir: As in ``fetch``.

    Raises:
        WeightsError: There is no such repository or folder, or no such file in it.
    """
    if source.startswith("hf-hub:"):
        repository = HubRepository.parse(source.removeprefix("hf-hub:"))
        path = hub_file(
            repository,
            ("config.json",),
            cache_dir=cache_dir,
            what="config.json",
            advice="A repository that `bsszoo push` wrote has one.",
        )
        return path, repository.label
    folder = Path(source.removeprefix("local-dir:")).expanduser()
    if not (folder / "config.json").is_file():
        raise WeightsError(
            f"There is no network in {str(folder)!r}: it has no config.json. A folder of `bsszoo "
            "train`, of `bsszoo pull` or of timm.models.save_for_hf has one."
        )
    return folder / "config.json", f"local-dir:{folder}"


def _tagged(
    code: Code, entry: ModelEntry | None, tag: str | None, org: str | None, cache_dir: str | Path | None
) -> Weights:
    if entry is None:
        raise WeightsError(
            f"No weights are published for the code {code}: it is not one of the zoo's. {_what_to_do(code)}"
        )
    tags = {t.tag: t for t in entry.tags}
    if org is not None and (entry.timm is None or (tag is not None and tag not in tags)):
        named = tag or (entry.tags[0].tag if entry.tags else DEFAULT_TAG)
        return _from_hub(HubRepository(f"{org}/{entry.name}.{named}"), code, entry, cache_dir)
    if entry.timm is not None:
        return _from_timm(entry, tag, cache_dir)
    if not entry.tags:
        raise WeightsError(f"{entry.name} names no Hub repository with weights. {_what_to_do(code)}")
    if tag is not None and tag not in tags:
        raise UnknownNameError(f"{entry.name} has no weights tagged {tag!r}.{close_matches(tag, tags)}")
    chosen = tags[tag] if tag else entry.tags[0]
    return _from_hub(HubRepository(chosen.repository), code, entry, cache_dir, chosen)


def repository_of(entry: ModelEntry, tag: str) -> str:
    """The repository of an entry's tag, as ``hf-hub:ORG/NAME``.

    Raises:
        UnknownNameError: The entry has no such tag.
    """
    if entry.timm is not None:
        repository = _timm_config(entry, tag).hf_hub_id
        if repository is None:
            raise UnknownNameError(f"{entry.name} has no weights tagged {tag!r}, nor any others.")
        return f"hf-hub:{repository}"
    tags = {t.tag: t.repository for t in entry.tags}
    if tag not in tags:
        raise UnknownNameError(f"{entry.name} has no weights tagged {tag!r}.{close_matches(tag, tags)}")
    return f"hf-hub:{tags[tag]}"


def _timm_config(entry: ModelEntry, tag: str | None) -> Any:
    """timm's configuration of an entry's tag, or of the default one."""
    configs = {name.partition(".")[2]: cfg for name, cfg in get_arch_pretrained_cfgs(entry.architecture).items()}
    if tag is not None and tag not in configs:
        raise UnknownNameError(f"{entry.name} has no weights tagged {tag!r}.{close_matches(tag, configs)}")
    return configs[tag] if tag else get_pretrained_cfg(entry.architecture)


def _from_timm(entry: ModelEntry, tag: str | None, cache_dir: str | Path | None) -> Weights:
    cfg = _timm_config(entry, tag)
    if cfg.hf_hub_id is None:
        raise WeightsError(
            f"timm has {entry.name!r} without weights: nobody has published any there. {_what_to_do(entry.code)}"
        )
    names = (cfg.hf_hub_filename or WEIGHTS_FILE,)
    repository = HubRepository.parse(cfg.hf_hub_id)
    path = hub_file(repository, names, cache_dir=cache_dir, advice=_what_to_do(entry.code, original=False))
    _check_sum(path, next((t.sha256 for t in entry.tags if t.tag == cfg.tag), None), repository.label)
    return Weights(path, repository.label, cfg.to_dict(), cached=True)


def _from_hub(
    repository: HubRepository,
    code: Code,
    entry: ModelEntry | None,
    cache_dir: str | Path | None,
    tag: WeightTag | None = None,
) -> Weights:
    advice = _what_to_do(code, original=entry is None or entry.timm is None)
    if tag is not None and not tag.published and entry is not None:
        advice = f"Nobody has published weights of {entry.name} there so far. {advice}"
    # config.json comes first, so that weights of another network are not downloaded.
    saved = hub_file(repository, ("config.json",), cache_dir=cache_dir, advice=advice, missing_ok=True)
    config = config_from(saved, code, repository.label) if saved else {}
    checksum = checksum_in(saved, repository.label) if saved else None
    # Of the same commit, whatever is pushed meanwhile: in the cache files lie in a folder named after it.
    commit = saved.parent.name if saved and re.fullmatch(r"[0-9a-f]{40}", saved.parent.name) else None
    path = hub_file(replace(repository, commit=commit), (WEIGHTS_FILE,), cache_dir=cache_dir, advice=advice)
    _check_sum(path, tag.sha256 if tag else None, repository.label)
    _check_sum(path, checksum, repository.label, by="its config.json")
    return Weights(path, repository.label, {**config, "hf_hub_id": repository.text}, cached=True)


def _from_folder(folder: Path, code: Code) -> Weights:
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        pickles = [name for name in PICKLES if (folder / name).is_file()]
        if pickles:
            raise WeightsError(
                f"There are no weights in {str(folder)!r} but {pickles[0]}, a pickle, which can run any "
                f"program when it is opened: from folders and repositories only {WEIGHTS_FILE} is "
                "taken. "
                "If you trust it, name the file itself, which is read as tensors only."
            )
        raise WeightsError(
            f"There are no weights in {str(folder)!r}: it has no {WEIGHTS_FILE}. A folder of `bsszoo "
            "train` has one once a training is done; timm.models.save_for_hf(model, folder, "
            "safe_serialization=True) writes such a folder."
        )
    saved = folder / "config.json"
    label = f"local-dir:{folder}"
    if not saved.is_file():
        return Weights(weights, label)
    check_recorded(weights, saved, label)
    return Weights(weights, label, config_from(saved, code, label))


def _what_to_do(code: Code, *, original: bool = True) -> str:
    text = (
        "What you can do: train the network and pass its checkpoint, pretrained='PATH/model.safetensors'; pass "
        "another source, pretrained='hf-hub:ORG/NAME' or 'local-dir:FOLDER'"
    )
    published = [e for e in named_entries().values() if e.published]
    start = next((e.name for e in published if e.code.family == code.family and not same_network(e.code, code)), None)
    if original and start:
        text += f"; or start from the original, bsszoo.create({start!r}, pretrained=True)"
    return f"{text}. pretrained=False gives random weights."


def _check_sum(path: Path, expected: str | None, label: str, *, by: str = "the zoo") -> None:
    if expected is None:
        return
    actual = sha256_of(path)
    if actual != expected.lower():
        forget(path)
        raise WeightsError(
            f"The weights of {label} are not those that {by} recorded: sha256 {actual}, expected "
            f"{expected}. The download is broken or the repository changed. The file was removed from "
            "the cache; try again, and if it stays so, do not use this repository."
        )


def check_recorded(weights: Path, config: Path, label: str) -> None:
    """A ``WeightsError`` where a file is not the one whose checksum the ``config.json`` beside it recorded, if any."""
    recorded = checksum_in(config, label)
    if recorded is not None and sha256_of(weights) != recorded.lower():
        raise WeightsError(
            f"The weights of {label} are not those that its config.json recorded: {weights.name} was "
            "changed, is damaged or is another network's. Train, pull or push it again, or name the file "
            "itself."
        )


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal text."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()

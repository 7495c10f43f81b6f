"""``OwnEvaluator``: subnetworks of a trained network, judged and fine-tuned by functions of the user.

    code --inherited weights, each layer fitted to the trained network's--> subnetwork --evaluate--> rung 0
         --fine_tune, a share of its full length, of those among the best there--> --evaluate--> score

They are called in this process with networks on the trained one's device. Nothing is known of the user's images but
those that were given for the fits.
"""

from __future__ import annotations

import hashlib
import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

from bsszoo.codes.code import Code
from bsszoo.errors import EvaluationError, SettingsError, formatted
from bsszoo.evaluators.base import Evaluator, EvaluatorInfo, Score, Trial, source_digest
from bsszoo.evaluators.inherited import checksum_of, estimated, weights_files
from bsszoo.evaluators.registry import Request
from bsszoo.evaluators.trainings import FRESH
from bsszoo.files import whole_file
from bsszoo.models.resolve import Network
from bsszoo.spaces.space import DIVISOR, Space
from bsszoo.texts import one_line

#: The share of a full fine-tuning by which a code is judged.
SHARE: Final = 0.1


@dataclass(frozen=True, eq=False)
class NetworkFunctions:
    """What judges networks in place of images in a folder.

    Args:
        evaluate: ``evaluate(network) -> float``: the accuracy [%] on images that are not trained on, or another figure
            of which higher is better. Networks are chosen by it.
        fine_tune: ``fine_tune(network)`` or ``fine_tune(network, share=..)``: trains a network in place, or returns the
            trained one. ``share`` is how much of its full length to train for, with a whole schedule of the rate: 0.1
            where codes are judged, 1 at the end. Without that parameter each code is trained in full.
        test: As ``evaluate``, on images by which nothing is chosen; the closing table has its figures. By default
            ``evaluate`` itself, which flatters what was chosen by it.
        images: Training images as the network takes them, to which layers are fitted and from which means and
            variances are recomputed: a tensor [n, c, h, w], or a loader of batches (images, or images and labels);
            about a thousand are used, and costs are counted at their size. Without any, weights are only inherited,
            there is no rung 0, and the size is that of the module's ``default_cfg``, else the family's.

    Raises:
        SettingsError: One of them is not what it should be.
    """

    evaluate: Callable[[Any], float]
    fine_tune: Callable[..., Any]
    test: Callable[[Any], float] | None = None
    images: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("evaluate", "fine_tune", "test"):
            function = getattr(self, name)
            if not callable(function) and not (function is None and name == "test"):
                raise SettingsError(
                    f"{name} is {formatted(function)}; it takes a function of a network. evaluate and fine_tune belong "
                    "together, and take the place of data."
                )

    def requested(self, request: Request) -> OwnEvaluator:
        """The evaluator of a network with weights.

        Raises:
            SettingsError: The network has no weights, or is a detector.
        """
        network = request.network
        if network.detector is not None:
            raise SettingsError("evaluate and fine_tune are for classifiers; a detector is searched with data.")
        if network.source is None:
            raise SettingsError(
                f"{network.recognised} comes without weights, from which its subnetworks start. Give a trained "
                "module, a weights file, a training's folder, hf-hub:ORG/NAME, or a name with a tag."
            )
        return OwnEvaluator(self, network, request.folder, divisor=request.divisor, grow=request.grow)


class OwnEvaluator(Evaluator):
    """Judges a subnetwork by the user's figure after a short fine-tuning of the user's from inherited weights.

    Args:
        functions: The user's.
        network: The trained network.
        folder: Fine-tuned networks go to ``fine_tuned`` in it.
        divisor, grow: As ``Space.subnetworks``.
        seed: Of the fine-tunings by which codes are judged.
    """

    leaders: ClassVar[int] = 3
    screened: ClassVar[int] = 3
    undecided: ClassVar[int] = 2
    controls: ClassVar[Literal["original", "random"]] = "original"
    # What a difference means is the user's to say.
    alike: ClassVar[float] = 0.0
    trials: ClassVar[int] = 160

    def __init__(
        self,
        functions: NetworkFunctions,
        network: Network,
        folder: Path,
        *,
        divisor: int = DIVISOR,
        grow: float = 1.0,
        seed: int = 0,
    ) -> None:
        from bsszoo.train.seeds import drawing

        self.functions, self.network, self.divisor, self.grow, self.seed = functions, network, divisor, grow, seed
        self.folder = (folder / "fine_tuned").absolute()
        #: Some images and their labels, where there are any. Loaders shuffle with the global generators.
        self.images = None
        if functions.images is not None:
            with drawing(seed, *b"images"):
                self.images = _some(functions.images)
        self.original = self.searched(network).code
        self._takes_share = "share" in _parameters(functions.fine_tune)
        self._shared: _Shared | None = None
        self._known: dict[Code, Score] = {}

    def __getstate__(self) -> dict[str, Any]:
        # What is shared is made again where it is needed: it is far larger than all else, and on this machine's device.
        # The source of a script's functions is not at hand in another process.
        return self.__dict__ | {"_shared": None, "fingerprint": self.fingerprint}

    # -- what a search asks -----------------------------------------------------------------------------------

    @property
    def writes(self) -> tuple[Path, ...]:
        """The folder of the fine-tuned networks."""
        return (self.folder,)

    @property
    def reads(self) -> tuple[Path, ...]:
        """The trained network."""
        return weights_files(str(self.network.source))

    @cached_property
    def fingerprint(self) -> str:
        """A fingerprint (SHA-256) of the network, its weights and the functions' source."""
        weights = checksum_of(str(self.network.source)) or self.network.source
        given = self.functions
        sources = [source_digest(f) for f in (given.evaluate, given.fine_tune, given.test) if f is not None]
        words = f"{self.original} {weights} {sources} {given.images is None} {self.divisor} {self.grow:g} {self.seed}"
        return hashlib.sha256(words.encode()).hexdigest()[:8]

    @property
    def info(self) -> EvaluatorInfo:
        """What the user's function measures, after how much fine-tuning."""
        length = f"{100 * SHARE:g}% of a fine-tuning" if self._takes_share else "a fine-tuning"
        return EvaluatorInfo(
            f"own-{self.fingerprint}", f"{self._measures}, with inherited weights after {length} of yours"
        )

    @property
    def _measures(self) -> str:
        lines = (inspect.getdoc(self.functions.evaluate) or "").strip().splitlines()
        return lines[0].rstrip(".") if lines else "value of your evaluate"

    def searched(self, network: Network) -> Network:
        """The network at the size of the images, where they are square."""
        height, width = (0, 1) if self.images is None else self.images[0].shape[2:]
        return network if height != width else replace(network, code=replace(network.code, image_size=height))

    def space(self, network: Network) -> Space:
        """The subnetworks of the network, with its classes and channels."""
        return Space.subnetworks(
            network.code,
            divisor=self.divisor,
            grow=self.grow,
            num_classes=network.num_classes,
            in_chans=network.in_chans,
        )

    def prepare(self, note: Callable[[str], None]) -> None:
        """Measure the network as it is.

        Raises:
            SettingsError: The user's function cannot measure it.
        """
        try:
            value = self(self.original).value
        except Exception as error:
            raise SettingsError(
                f"evaluate failed on the network itself: {type(error).__name__}: {one_line(error, 300)}"
            ) from error
        note(f"The network as it is: {value:.4g} ({self._measures}).")
        if 0 < value <= 1:
            note("Is that a share? Closing sentences take the figure for percent.")

    def estimate(self, trials: int, finalists: int, trainings: int, code: Code) -> str:
        """By the time of judging one code here, which is kept as that code's score."""
        start = time.perf_counter()
        network = self.subnetwork(code)
        fitted = time.perf_counter()
        self._value(network)
        rung = time.perf_counter()
        self._known[code] = self._tuned_score(network)
        end = time.perf_counter()
        each, judged = (rung if self._has_rungs else fitted) - start, end - rung
        full = judged / (SHARE if self._takes_share else 1)
        return estimated(trials, finalists, trainings, each, judged, full, rungs=self._has_rungs)

    @property
    def _has_rungs(self) -> bool:
        return self.functions.images is not None

    # -- judging ----------------------------------------------------------------------------------------------

    def evaluate(self, code: Code, trial: Trial) -> Score:
        """The user's figure of a code; of the network itself as it is, which is not fine-tuned."""
        if code in self._known:
            return self._known[code]
        if code == self.original:
            self._known[code] = Score(self._value(self.shared().network), self._measures)
            return self._known[code]
        network = self.subnetwork(code)
        if self._has_rungs:
            value = self._value(network)
            trial.report(value, 0)
            if trial.should_stop():
                return Score(value, self._measures)
        return self._tuned_score(network)

    def _tuned_score(self, network: Any) -> Score:
        return Score(self._value(self._tuned(network, SHARE, self.seed)), self._measures)

    def _value(self, network: Any, function: Callable[[Any], float] | None = None) -> float:
        """A figure of a network in evaluation, as the user's function gives it."""
        return Score((function or self.functions.evaluate)(network.eval())).value

    def _tuned(self, network: Any, share: float, seed: int) -> Any:
        """A network after the user's fine-tuning."""
        from torch import nn

        from bsszoo.train.seeds import seed_generators

        shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
        seed_generators(self.shared().device, seed, *b"tune")
        given = self.functions.fine_tune(network.train(), **({"share": share} if self._takes_share else {}))
        tuned = given if isinstance(given, nn.Module) else network
        if {name: tensor.shape for name, tensor in tuned.state_dict().items()} != shapes:
            raise EvaluationError("fine_tune returned a network of other tensors than it was given.")
        return tuned

    def subnetwork(self, code: Code) -> Any:
        """A code's network with inherited weights, fitted where there are images."""
        from bsszoo.models.inherit import subnetwork

        shared = self.shared()
        return subnetwork(code, shared.network, self.original, shared.reference, shared.batches)

    def shared(self) -> _Shared:
        """The trained network and the images, read once."""
        if self._shared is None:
            self._shared = _Shared(self)
        return self._shared

    # -- the end ----------------------------------------------------------------------------------------------

    @property
    def test_measures(self) -> str:
        """What ``tested`` measures."""
        end = "of networks fine-tuned in full by yours from inherited weights; of the network itself as it is"
        if self.functions.test is None:
            return f"{self._measures}, by which they were chosen too, as no test was given, {end}"
        lines = (inspect.getdoc(self.functions.test) or "").strip().splitlines()
        return f"{lines[0].rstrip('.') if lines else 'value of your test'}, {end}"

    @property
    def test_unit(self) -> str:
        """What a difference of two results of ``tested`` is counted in."""
        return "points"

    def tested(self, code: Code, number: int) -> tuple[float, float]:
        """The figures of a fine-tuning in full of a code: of ``test``, and of ``evaluate``."""
        from safetensors.torch import save_file

        if code == self.original:
            return self._value(self.shared().network, self.functions.test), self(code).value
        network = self._tuned(self.subnetwork(code), 1.0, self.seed + FRESH + number)
        results = self._value(network, self.functions.test), self._value(network)
        file = self._file(code, number)
        file.parent.mkdir(parents=True, exist_ok=True)
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
        with whole_file(file) as scratch:
            save_file(state, scratch, metadata={"format": "pt"})
        return results

    def deliver(self, code: Code, number: int, folder: Path) -> None:
        """Write the network of a fine-tuning in full to a folder: weights and configuration."""
        from timm.models import save_for_hf

        from bsszoo.models.create import create

        network: Any = create(code, pretrained=self._file(code, number))
        # Label names, size and normalisation are the trained network's.
        config = {k: v for k, v in self.shared().network.pretrained_cfg.items() if k in _KEPT}
        network.pretrained_cfg = {**network.pretrained_cfg, **config}
        save_for_hf(network, str(folder), safe_serialization=True)

    def _file(self, code: Code, number: int) -> Path:
        name = hashlib.sha256(f"{code} {self.fingerprint}".encode()).hexdigest()[:16]
        return self.folder / f"{name}_seed{self.seed + FRESH + number}.safetensors"


# Entries of a network's configuration that its subnetworks share.
_KEPT: Final = ("input_size", "mean", "std", "crop_pct", "interpolation", "label_names", "label_descriptions")


class _Shared:
    """The trained network on its device, and of the images what its subnetworks are fitted to."""

    def __init__(self, judge: OwnEvaluator) -> None:
        import torch

        from bsszoo.models.create import create
        from bsszoo.models.inherit import Reference
        from bsszoo.train.classification.trained import images_to_fit

        given = judge.network.module
        first = None if given is None else next(given.parameters(), None)
        self.device = torch.device("cpu") if first is None else first.device
        network: Any = create(judge.original, pretrained=judge.network.source or True)
        self.network = network.to(self.device).eval()
        self.reference: Any = None
        self.batches: list[Any] = []
        if judge.images is not None:
            images, labels = judge.images
            images = images.to(self.device)
            number = images_to_fit(images.shape[1], max(images.shape[2:]))
            fitted = None if labels is None else labels[:number].to(self.device)
            self.reference = Reference(self.network, judge.original, images[:number], fitted)
            self.batches = list(images[: len(images) // 256 * 256 or len(images)].split(256))


def _some(images: Any) -> tuple[Any, Any]:
    """Some images [n, c, h, w] of a tensor or a loader, with their labels [n] where it gives them.

    Raises:
        SettingsError: It gives none, or something else.
    """
    import torch

    from bsszoo.train.classification.trained import NORM_IMAGES

    batches = [images] if isinstance(images, torch.Tensor) else images
    parts, labels, most, total = [], [], NORM_IMAGES, 0
    for batch in batches:
        part, *rest = batch if isinstance(batch, (list, tuple)) else [batch]
        most = _most(part)
        parts.append(part[:most])
        classes = rest[0] if rest else None
        if isinstance(classes, torch.Tensor) and classes.dim() == 1 and not classes.is_floating_point():
            labels.append(classes[:most])
        total += len(part)
        if total >= most:
            break
    if not total:
        raise SettingsError("images gives no image; it takes a tensor [n, c, h, w] or a loader of such batches.")
    return torch.cat(parts)[:most], torch.cat(labels)[:most] if len(labels) == len(parts) else None


def _most(images: Any) -> int:
    """How many images like these are used: fewer where they are large."""
    import torch

    from bsszoo.train.classification.trained import NORM_IMAGES, images_to_fit

    if not isinstance(images, torch.Tensor) or images.dim() != 4 or not images.is_floating_point():
        raise SettingsError(
            f"images gives {formatted(type(images).__name__)}; it takes images as the network takes them, tensors "
            "[n, c, h, w] of floating-point numbers, or a loader of such batches."
        )
    return min(NORM_IMAGES, 2 * images_to_fit(images.shape[1], max(images.shape[2:])))


def _parameters(function: Callable[..., Any]) -> set[str]:
    try:
        return set(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # one that is built in
        return set()

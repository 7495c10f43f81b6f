"""``inherit_weights``: a network starts from the weights of a trained one of its family where their shapes allow.

Block i of a stage takes its weights from a block of the trained network's same stage, channel by channel. The
channels are selected once for all layers that have to agree: everything that writes or reads the outputs of a stage
uses the same ones, and so do the layers inside a block.

    a narrower axis takes the most important channels, in their order; a wider one all of them, and then fresh ones
    a shallower stage takes its first block and the most important others, in their order; a deeper one all of them;
    where blocks of a stage differ in their layers or kernels, each takes its weights from one of its own form

The importance of a channel is the L2 norm of all weights that write it or read it: it needs no images, and is as good
as the gradients' (Taylor, Fisher) or better. A channel that its normalisations make 0 is worth nothing.

A layer normalisation depends on all channels: those of a stage that lost or gained some give the others something else,
which only a fit to images makes up for. Inner channels, and whole blocks, it does not see.

A GhostNet's channels are pairs: one that a convolution makes, and its ghost, which a depthwise one makes of it. Both
are selected, or neither.

Notation:
    map  integer array [channels of the new network]: the channel of the trained one, or -1 for a fresh one
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

import torch
from timm.layers import resample_abs_pos_embed
from torch import nn

from bsszoo.codes.code import Code, layers_of, stages_of
from bsszoo.codes.layers import Layer
from bsszoo.errors import CodeError
from bsszoo.models.build import build
from bsszoo.models.importance import (
    absolute_norms,
    axis_map,
    channel_map,
    group_map,
    identity_map,
    importance_of,
    inner_importance,
    readers_of,
    selected_blocks,
    squared_norms,
    writers_of,
)
from bsszoo.models.parts import FRESH, HALF, NetBlock, NetGate, NetLayer, is_normalised, parts_of
from bsszoo.models.reconstruct import RIDGE, ROWS, Samples, channels_first, fit, fit_affine, fit_linear, input_of

# A channel whose squeeze-and-excitation lets less through on average is not scaled up by more than this makes it.
_LEAST_FACTOR: Final = 0.1


def subnetwork(
    code: Code, trained: nn.Module, trained_code: Code, reference: Reference | None, batches: Iterable[torch.Tensor]
) -> Any:
    """The network of a code with weights inherited from a trained one, on its device, in evaluation.

    Args:
        code: The code, of a network with as many classes and input channels as the trained one.
        trained, trained_code, reference: As ``inherit_weights``.
        batches: Training images from which means and variances are recomputed; without any they are inherited.
    """
    first: Any = next(trained.parameters())
    sizes: Any = trained
    network: Any = build(code, num_classes=sizes.num_classes, in_chans=sizes.in_chans).to(first.device)
    inherit_weights(network, code, trained, trained_code, reference=reference)
    average_norms(network, batches)
    return network.eval()


@torch.no_grad()
def average_norms(network: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Set the means and variances of batch normalisations to the averages over batches of inputs; none leave them."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [norm.momentum for norm in norms]
    if not norms:
        network.eval()
        return
    for number, batch in enumerate(batches):
        if number == 0:
            network.train()
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # a plain average
        network(batch)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    network.eval()


@dataclass(frozen=True, slots=True)
class Inheritance:
    """How much of a network was inherited: ``inherited`` of ``params`` parameters, ``blocks`` of ``total_blocks``."""

    inherited: int
    params: int
    blocks: int
    total_blocks: int

    def __str__(self) -> str:
        return (
            f"{self.inherited:,} of {self.params:,} parameters ({100 * self.inherited / self.params:.1f}%), in "
            f"{self.blocks} of {self.total_blocks} blocks"
        )


class Reference:
    """What the layers of a trained network give for some images: subnetworks are fitted to it (``models.reconstruct``).

    Args:
        trained: The network.
        code: Its code.
        images: Normalised images [m, c, h, w] on its device; a few hundred to a thousand.
        labels: Their labels [m]: channels are then chosen by what removing them changes in the loss (Taylor). Where
            layers are fitted that is better than weights' norms for inverted residual blocks, and as good for others.
        rows: Positions at which each layer is fitted.
        ridge: Weight of the inherited weights in the fit.
        seed: Of their choice.
    """

    @torch.no_grad()
    def __init__(
        self,
        trained: nn.Module,
        code: Code,
        images: torch.Tensor,
        labels: torch.Tensor | None = None,
        *,
        rows: int = ROWS,
        ridge: float = RIDGE,
        seed: int = 0,
    ) -> None:
        tokens = max(layer.tokens for layer in layers_of(code))
        self.images, self.samples, self.ridge = images, Samples(len(images), rows, seed, tokens), ridge
        stem, stages, heads, _, classifier = parts_of(trained, code)
        #: Of each layer, by its convolution: the normalised output. Of each block, by its module: the sum before the
        #: activation that follows it. Of squeeze-and-excitation at the end of a branch: what it returns. Of the layers
        #: behind the blocks and the classifier: their outputs.
        self.targets: dict[nn.Module, torch.Tensor] = {}
        skips: dict[nn.Module, torch.Tensor] = {}
        hooks: list[Any] = []

        def of_layer(layer: NetLayer) -> None:
            def keep(conv: nn.Module, _: Any, output: torch.Tensor) -> None:
                self.targets[conv] = layer.normalised(layer.sampled(output, self.samples))

            hooks.append(layer.conv.register_forward_hook(keep))

        def of_block(block: NetBlock) -> None:
            def before(_: nn.Module, inputs: Any) -> None:
                if block.joined:
                    skips[block.end] = self.samples.values(channels_first(inputs[0], block.entry))

            def after(module: nn.Module, _: Any, output: torch.Tensor) -> None:
                if block.paired:
                    self.targets[module] = self.samples.values(output)
                    return
                total = self.targets[block.branch[-1].conv if block.gated is None else block.gated.module]
                if block.shortcut:
                    total = total + self.targets[block.shortcut[-1].conv]
                skip = skips.pop(module, 0)
                # What an activation follows is compared before it, without what is added behind it.
                self.targets[module] = total if block.activated else total + skip

            def after_gate(module: nn.Module, _: Any, output: torch.Tensor) -> None:
                self.targets[module] = self.samples.values(output)

            if block.gated is not None:
                hooks.append(block.gated.module.register_forward_hook(after_gate))
            hooks.append(block.entry.register_forward_pre_hook(before))
            hooks.append(block.end.register_forward_hook(after))

        for block in (block for blocks in stages for block in blocks):
            for layer in (*block.branch, *block.shortcut):
                of_layer(layer)
            of_block(block)
        for head in heads:
            of_layer(head)

        def of_stem(_: nn.Module, inputs: Any) -> None:
            self.targets[stem.conv] = self.samples.values(inputs[0])

        if is_normalised(stem):  # what its layer normalisation gives
            hooks.append(stages[0][0].entry.register_forward_pre_hook(of_stem))
        try:
            outputs = trained.eval()(images)
        finally:
            for hook in hooks:
                hook.remove()
        if isinstance(classifier, nn.Linear):
            self.targets[classifier] = outputs
        #: Importance of the channels of each stage's output, and of each axis inside a block, by its module and name.
        self.streams: list[torch.Tensor] | None = None
        self.inner: dict[tuple[nn.Module, str], torch.Tensor] = {}
        if labels is not None:
            self.streams, self.inner = _taylor(trained, stages, images, labels)


#: Images whose gradients are taken at once, of how many.
_PARTS: Final = 8


@torch.enable_grad()
def _taylor(
    trained: nn.Module, stages: Sequence[Sequence[NetBlock]], images: torch.Tensor, labels: torch.Tensor
) -> tuple[list[torch.Tensor], dict[tuple[nn.Module, str], torch.Tensor]]:
    """First-order change of the loss when a channel is removed: mean over images of |sum over positions of a dL/da|.

    Summed over all places where a stage's output is read or written. P. Molchanov et al., Pruning convolutional neural
    networks for resource efficient inference, ICLR 2017.
    """
    # What is differentiated is what the layers read and give themselves, not a view of it.
    sites: list[tuple[object, torch.Tensor, nn.Module]] = []
    hooks: list[Any] = []
    for number, blocks in enumerate(stages):
        for i, block in enumerate(blocks):
            if block.entry is not block.end:
                # The skip is in no module: what a branch reads is what all before it have added up to.
                hooks.append(block.entry.register_forward_pre_hook(lambda m, x, at=number: sites.append((at, x[0], m))))
            elif i == number == 0 and block.joined:
                # The first stage adds to what the stem writes.
                hooks.append(block.module.register_forward_pre_hook(lambda m, x: sites.append((0, x[0], m))))
            key: object = number if block.residual else (block.end, "out")
            if block.entry is block.end:
                hooks.append(block.module.register_forward_hook(lambda m, _, y, at=key: sites.append((at, y, m))))
            last = {x.reads: x for x in block.branch if x.reads != "in" and not x.reads.endswith(HALF)}
            for axis, layer in last.items():
                at = (block.end, axis)
                hooks.append(layer.conv.register_forward_pre_hook(lambda m, x, at=at: sites.append((at, x[0], m))))
    total: dict[object, torch.Tensor] = {}
    try:
        size = max(1, -(-len(images) // _PARTS))
        for start in range(0, len(images), size):
            part = slice(start, start + size)
            # Weights need no gradients: the input has one, so that all activations do.
            outputs = trained.eval()(images[part].clone().requires_grad_())
            loss = nn.functional.cross_entropy(outputs.float(), labels[part].to(outputs.device), reduction="sum")
            gradients = torch.autograd.grad(loss, [activation for _, activation, _ in sites])
            for (key, activation, module), gradient in zip(sites, gradients, strict=True):
                product = channels_first(activation.detach() * gradient, module)
                change = product.sum((2, 3)).abs().sum(0).cpu()
                total[key] = total.get(key, torch.zeros_like(change)) + change
            sites.clear()
    finally:
        for hook in hooks:
            hook.remove()
    streams = [total.get(number, torch.zeros(0)) / len(images) for number in range(len(stages))]
    inner = {key: change / len(images) for key, change in total.items() if isinstance(key, tuple)}
    return streams, inner


def check_family(code: Code, trained_code: Code) -> None:
    """A ``CodeError`` where a code is of another family than the trained network whose weights it is to inherit."""
    if code.family != trained_code.family:
        raise CodeError(
            f"A {code.family} code cannot inherit the weights of a {trained_code.family} one: their blocks "
            "differ. Give the weights of a network of the same family."
        )


def is_subnetwork(code: Code, whole: Code) -> bool:
    """Whether a code is another of its family with channels and blocks removed, or that one itself.

    No stage is deeper, no layer reads or writes more channels, and each block has the other's kernels, strides, group
    width and no projection that the other lacks.

    Example:
        >>> whole = Code.parse("resnet18_c64-128-256-512_l2-2-2-2")
        >>> narrower, deeper = "resnet18_c64-96-128-512_l2-2-1-2", "resnet18_c32-64-128-256_l2-2-3-2"
        >>> [is_subnetwork(Code.parse(text), whole) for text in (narrower, deeper)]
        [True, False]
    """
    if code.family != whole.family:
        return False
    for stage, of_stage in zip(stages_of(code), stages_of(whole), strict=True):
        blocks, of_blocks = list(stage.blocks()), list(of_stage.blocks())
        if len(blocks) > len(of_blocks):
            return False
        for block, of_block in zip(blocks, of_blocks, strict=False):
            # The stages before it may have other depths in the same module.
            layers, of_layers = (
                {x.name.removeprefix(b.name): x for x in b.layers() if x.present} for b in (block, of_block)
            )
            lost = of_layers.keys() - layers.keys()
            if layers.keys() - of_layers.keys() or any(of_layers[name].role != "shortcut" for name in lost):
                return False
            if not all(_is_part(layer, of_layers[name]) for name, layer in layers.items()):
                return False
    return True


def _is_part(layer: Layer[int], whole: Layer[int]) -> bool:
    """Whether a layer is another with input and output channels removed."""
    depthwise = all(x.group_width == 1 for x in (layer, whole))
    dense = layer.groups == 1 == whole.groups
    return (
        (layer.kernel, layer.stride) == (whole.kernel, whole.stride)
        and layer.in_width <= whole.in_width
        and layer.out_width <= whole.out_width
        and layer.head_width == whole.head_width
        and (depthwise or dense or layer.group_width == whole.group_width)
    )


@torch.no_grad()
def inherit_weights(
    network: nn.Module, code: Code, trained: nn.Module, trained_code: Code, *, reference: Reference | None = None
) -> Inheritance:
    """Give a fresh network the weights of a trained one of the same family, where their shapes allow.

    A network inherits itself exactly. Blocks that a deeper stage has beyond the trained one's keep their fresh weights,
    but begin as the identity where they have a skip; weights by which inherited channels read fresh ones begin at 0.
    The classifier is inherited when both have as many classes, the first layer when both have as many input channels.

    Args:
        network: The model of ``code``, changed in place.
        code: Its code.
        trained: The model of ``trained_code``; left as it is.
        trained_code: The code of the trained network.
        reference: What the trained network gives for some images: each inherited layer is then fitted to it, on the
            device of the images, where both networks are.

    Raises:
        CodeError: The codes are of different families.

    Example:
        >>> from bsszoo.models.build import build
        >>> small = Code.parse("mobilenetv2_c12-16-32-48-80-160_l1-2-2-2-2-1_t3-3-3-3-3-3")
        >>> large = Code.parse("mobilenetv2_c24-32-64-96-160-320_l2-3-4-3-3-1_t6-6-6-6-6-6")
        >>> print(inherit_weights(build(small), small, build(large), large))
        1,654,324 of 1,654,324 parameters (100.0%), in 11 of 11 blocks
    """
    check_family(code, trained_code)
    streams = None if reference is None else reference.streams
    copier = _Copier({} if reference is None else reference.inner)
    (stem, stages, heads, norms, classifier), (from_stem, from_stages, from_heads, from_norms, from_classifier) = (
        parts_of(network, code),
        parts_of(trained, trained_code),
    )
    following = [stage[0] for stage in from_stages[1:]]
    # The first stages may write what the stem writes as well.
    joined = [mine[0].joined and theirs[0].joined for mine, theirs in zip(stages, from_stages, strict=True)]
    if run := [*joined, False].index(False):
        blocks_in = [block for blocks in from_stages[:run] for block in blocks]
        importance = importance_of([from_stem, *writers_of(blocks_in)], readers_of(blocks_in, following[run - 1 : run]))
        importance = importance if streams is None else torch.stack(streams[:run]).sum(0)
    else:
        importance = importance_of([from_stem], readers_of([], from_stages[0][:1]))
    stream = axis_map(importance, stem.out_channels, paired=run > 0 and stages[0][0].paired)
    if (channels := stem.in_channels) == from_stem.in_channels:
        copier.layer(stem, from_stem, identity_map(channels, channels), stream)
    stem_map = stream
    copied = 0
    fits: list[_Fit] = []
    for number, (blocks, from_blocks) in enumerate(zip(stages, from_stages, strict=True)):
        first, from_first = blocks[0], from_blocks[0]
        if first.joined and from_first.joined:
            out = stream  # the skip of the first block adds the stage before: one set of channels for both
        elif not first.residual:
            out = stream  # each block has channels of its own
        else:
            readers = readers_of(from_blocks[1:], following[number : number + 1])
            readers += from_heads[:1] if number + 1 == len(from_stages) else []
            importance = importance_of(writers_of(from_blocks), readers) if streams is None else streams[number]
            out = axis_map(importance, first.width, paired=first.paired)
        taken = selected_blocks(from_blocks, blocks)
        for i, block in enumerate(blocks):
            source = taken[i] if i < len(taken) else None
            behind = from_blocks.index(taken[i + 1]) if i + 1 < len(taken) else len(from_blocks)
            if not block.residual:
                # What is written takes the place of what the last block removed behind it wrote.
                next_blocks = [*from_blocks[behind:], *following[number : number + 1]][:1]
                readers = from_heads[:1] if from_heads and not next_blocks else readers_of([], next_blocks)
                out = stream if source is None else copier.outputs(from_blocks[behind - 1], readers, block)
            if source is None or source.names != block.names:
                _zero_branch(block)
                fits.append(_Fit(block))
            else:
                maps = copier.block(block, source, stream, out)
                copied += block.counted
                fits.append(_Fit(block, source, source if source.activated else from_blocks[behind - 1], maps))
            stream = out
    if reference is not None:
        if is_normalised(stem):
            _fit_stem(network, stem, stages[0][0], stem_map, reference.targets[from_stem.conv], reference)
        elif stem.norm is not None and (fresh := stem_map == FRESH).any():
            _set_statistics(stem, reference.samples.values(stem.conv(reference.images)), fresh)
        _fit_blocks(network, fits, reference)
    for head, from_head in zip(heads, from_heads, strict=True):
        importance = importance_of([from_head], [])
        if from_head.norm is None and isinstance(from_classifier, nn.Linear):
            # No normalisation says which channels are off: those that the classifier does not read.
            importance = importance * torch.sqrt(squared_norms(from_classifier.weight, 1))
        features = channel_map(importance, head.out_channels)
        copier.layer(head, from_head, stream, features)
        if reference is not None:
            inputs = input_of(head.conv, lambda: network.eval()(reference.images))
            if head.pooled:
                _fit_shift(head, inputs, reference.targets[from_head.conv], reference, features)
            else:
                _fit_layer(head, inputs, reference.targets[from_head.conv], reference, features)
        stream = features
    for mine, theirs in zip(norms, from_norms, strict=True):
        copier.vector(mine, theirs, stream)
    if (
        isinstance(classifier, nn.Linear)
        and isinstance(from_classifier, nn.Linear)
        and (classifier.out_features == from_classifier.out_features)
    ):
        same = identity_map(classifier.out_features, from_classifier.out_features)
        copier.weight(classifier.weight, from_classifier.weight, same, stream)
        copier.vector(classifier.bias, from_classifier.bias, same)
        if reference is not None:
            inputs = input_of(classifier, lambda: network.eval()(reference.images))
            fit_linear(classifier, inputs, reference.targets[from_classifier], reference.ridge)
    params = sum(p.numel() for p in network.parameters())
    return Inheritance(copier.count, params, copied, sum(block.counted for blocks in stages for block in blocks))


class _Fit(NamedTuple):
    """A block, the trained one it inherits from, the last one removed behind that (or itself), and its channels.

    A fresh block has none.
    """

    block: NetBlock
    source: NetBlock | None = None
    end: NetBlock | None = None
    maps: Mapping[str, torch.Tensor] = {}


def _fit_blocks(network: nn.Module, fits: Sequence[_Fit], reference: Reference) -> None:
    """Fit the layers of inherited blocks in the order of the forward, each to the inputs of those fitted before it.

    Channels that the trained network has not stay as they are, and are inputs of the layers behind them.
    """
    x = input_of(fits[0].block.entry, lambda: network.eval()(reference.images))
    for block, source, end, maps in fits:
        targets, samples = reference.targets, reference.samples
        if source is None or end is None:
            x = block.module(x)
            continue
        for i, layer in enumerate(block.shortcut):
            inputs = x if i == 0 else input_of(layer.conv, partial(block.module, x))
            if source.shortcut:
                _fit_layer(layer, inputs, targets[source.shortcut[i].conv], reference, maps[layer.writes])
            else:
                _set_statistics(layer, layer.sampled(layer.conv(inputs), samples))
        inside = len(block.branch) - len(block.last)
        for layer, from_layer in zip(block.branch[:inside], source.branch[:inside], strict=True):
            inputs = input_of(layer.conv, partial(block.module, x))
            outputs = layer.outputs(maps[layer.writes], from_layer.axis_width)
            _fit_layer(layer, inputs, targets[from_layer.conv], reference, outputs)
        beside: torch.Tensor | float = 0.0
        if block.shortcut:
            last = block.shortcut[-1]
            inputs = x if len(block.shortcut) == 1 else input_of(last.conv, partial(block.module, x))
            beside = last.normalised(last.sampled(last.conv(inputs), samples))
        elif block.joined and not block.activated:
            beside = samples.values(channels_first(x, block.entry))
        last, wanted = block.branch[-1], targets[end.end]
        if block.paired:
            _fit_pair(block, source, x, wanted, reference, maps, beside)
            x = block.module(x)
            continue
        if source.gated is not None:
            # What the gate is to return, before the gate: the trained layer's output, and what else the sum lacks by
            # each channel's mean factor. Where nothing is lacking the layer is fitted to the trained one's output.
            own, weighted = targets[source.branch[-1].conv], targets[source.gated.module]
            factor = ((own * weighted).mean(0) / (own**2).mean(0).clamp_min(1e-12)).clamp_min(_LEAST_FACTOR)
            wanted = own + (wanted - weighted) / factor
            beside = beside / factor[maps["out"]]
        inputs = input_of(last.conv, partial(block.module, x))
        _fit_layer(last, inputs, wanted, reference, maps["out"], beside=beside)
        x = block.module(x)


def _fit_pair(
    block: NetBlock,
    source: NetBlock,
    x: torch.Tensor,
    wanted: torch.Tensor,
    reference: Reference,
    maps: Mapping[str, torch.Tensor],
    beside: torch.Tensor | float,
) -> None:
    """Fit the two layers that write a half of a block's outputs each, to what is wanted of the block, less ``beside``.

    The second one reads what the first one, as fitted, gives.
    """
    first, second = block.last
    half, from_half = (b.last[0].out_channels for b in (block, source))
    beside = torch.zeros(len(wanted), block.width, device=wanted.device) + beside
    inputs = input_of(first.conv, partial(block.module, x))
    _fit_layer(first, inputs, wanted[:, :from_half], reference, maps[first.writes], beside=beside[:, :half])
    # A ghost that is cut off, of an odd number of channels, has no target, and needs none.
    rest = nn.functional.pad(beside[:, half:], (0, 2 * half - block.width))
    ghosts = maps[second.writes].clone()
    ghosts[ghosts + from_half >= source.width] = FRESH
    ghosts[block.width - half :] = FRESH
    inputs = input_of(second.conv, partial(block.module, x))
    _fit_layer(second, inputs, wanted[:, from_half:], reference, ghosts, beside=rest)


def _fit_stem(
    network: nn.Module,
    stem: NetLayer,
    first: NetBlock,
    channels: torch.Tensor,
    targets: torch.Tensor,
    reference: Reference,
) -> None:
    """Fit the layer normalisation behind a stem to what the trained one gives, in the channels that both have."""
    values = reference.samples.values(input_of(first.entry, lambda: network.eval()(reference.images)))
    have = channels != FRESH
    scale, shift = (vector for vector, _ in stem.vectors)
    fitted = scale[have], shift[have]
    fit_affine(*fitted, values[:, have], targets[:, channels[have]])
    scale[have], shift[have] = fitted


def _fit_layer(
    layer: NetLayer,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    reference: Reference,
    channels: torch.Tensor,
    *,
    beside: torch.Tensor | float = 0.0,
) -> None:
    """Fit a layer so that with what is added ``beside`` it comes to the trained network's channels."""
    wanted = targets[:, channels] - beside
    if (fresh := channels == FRESH).any():
        own = layer.sampled(layer.conv(inputs), reference.samples)
        _set_statistics(layer, own, fresh)
        wanted[:, fresh] = layer.normalised(own)[:, fresh]
    fit(layer, reference.samples.patches(inputs, layer.conv), wanted, reference.ridge)


def _fit_shift(
    layer: NetLayer, inputs: torch.Tensor, targets: torch.Tensor, reference: Reference, channels: torch.Tensor
) -> None:
    """Fit the biases of a 1x1 convolution on pooled features, so that its mean outputs are the trained network's.

    With a normalisation behind it, the biases of that.

    Its weights stay as inherited: there is one row for each image, of which they would be fitted to the noise. Outputs
    that the trained network has not stay as they are.
    """
    inherited = channels != FRESH
    outputs = layer.normalised(layer.sampled(layer.conv(inputs), reference.samples))[:, inherited]
    bias = layer.conv.bias if layer.norm is None else layer.norm.bias
    bias[inherited] += (targets[:, channels[inherited]] - outputs).mean(0)


def _set_statistics(layer: NetLayer, outputs: torch.Tensor, channels: torch.Tensor | slice = slice(None)) -> None:
    """Set the statistics of a layer's normalisation to those of its convolution's outputs [n, c], of some channels."""
    if layer.norm is None:
        return
    layer.norm.running_mean[channels] = outputs.mean(0)[channels]
    layer.norm.running_var[channels] = outputs.var(0)[channels]


class _Copier:
    """Copies weights by maps, and counts the parameters it copied.

    ``inner`` is the importance of inner axes where it is known, by the block's module and the axis.
    """

    def __init__(self, inner: Mapping[tuple[nn.Module, str], torch.Tensor]) -> None:
        self.count, self._inner = 0, inner

    def importance(self, block: NetBlock, axis: str) -> torch.Tensor:
        """The importance of the channels of an axis inside a block."""
        known = self._inner.get((block.end, axis))
        return inner_importance(block, axis) if known is None else known

    def outputs(self, source: NetBlock, readers: Sequence[NetLayer], to: NetBlock) -> torch.Tensor:
        """The map of what a block without a shortcut writes, of a trained one's outputs."""
        known = self._inner.get((source.end, "out"))
        importance = importance_of([source.branch[-1]], readers) if known is None else known
        return channel_map(importance, to.branch[-1].out_channels)

    def weight(self, to: torch.Tensor, source: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> None:
        """A weight [out, in, ..]: inherited rows read fresh columns by zero, so that the inherited function stays."""
        have_rows, have_columns = rows != FRESH, columns != FRESH
        fresh = to.clone()
        fresh[have_rows] = 0
        block = source[rows[have_rows]][:, columns[have_columns]]
        indices = torch.where(have_rows)[0][:, None], torch.where(have_columns)[0][None]
        fresh[indices] = block.to(fresh)
        to.copy_(fresh)
        self.count += block.numel()

    def vector(
        self, to: torch.Tensor | None, source: torch.Tensor | None, rows: torch.Tensor, *, counted: bool = True
    ) -> None:
        """A bias, or a vector of a normalisation layer."""
        if to is None or source is None:
            return
        have = rows != FRESH
        if to.dim() == 3:  # of tokens [1, n, channels]
            if to.shape[1] != source.shape[1]:  # of an image of another size
                side = math.isqrt(to.shape[1] - 1)
                source = resample_abs_pos_embed(source, [side, side])
            to[:, :, have] = source[:, :, rows[have]].to(to)
        else:
            to[have] = source[rows[have]].to(to)
        self.count += int(have.sum()) * to[..., 0].numel() if counted else 0

    def layer(self, to: NetLayer, source: NetLayer, reads: torch.Tensor, writes: torch.Tensor) -> None:
        """A convolution and its normalisation."""
        if to.weight.shape[2:] != source.weight.shape[2:]:
            return
        writes = to.outputs(writes, source.axis_width)
        if to.groups == 1 == source.groups:
            self.weight(to.weight, source.weight, writes, reads)
        else:
            self._grouped(to.conv, source.conv, reads, writes)
        self.vector(to.conv.bias, source.conv.bias, writes)
        for (mine, axis), (theirs, _) in zip(to.vectors, source.vectors, strict=True):
            self.vector(mine, theirs, reads if axis == "in" else writes)
        if to.norm is None:
            return
        for name, counted in (("weight", True), ("bias", True), ("running_mean", False), ("running_var", False)):
            self.vector(getattr(to.norm, name), getattr(source.norm, name), writes, counted=counted)
        to.norm.num_batches_tracked.copy_(source.norm.num_batches_tracked)

    def _grouped(self, to: Any, source: Any, reads: torch.Tensor, writes: torch.Tensor) -> None:
        """The weight [out, in of a group, ..] of a grouped convolution: inputs that both read are inherited."""
        have = writes != FRESH
        rows, outputs = writes[have], torch.where(have)[0]
        wide, from_wide = to.weight.shape[1], source.weight.shape[1]
        # For each inherited output the trained channels behind its inputs, and their indices in its trained group.
        group = outputs // (to.out_channels // to.groups)
        channels = reads[group[:, None] * wide + torch.arange(wide)]
        index = channels - (rows // (source.out_channels // source.groups) * from_wide)[:, None]
        shared = (channels != FRESH) & (index >= 0) & (index < from_wide)
        weights = source.weight[rows[:, None], index.clamp(0, from_wide - 1)]
        weights[~shared] = 0
        to.weight[outputs] = weights.to(to.weight)
        self.count += int(shared.sum()) * weights[0, 0].numel()

    def block(
        self, to: NetBlock, source: NetBlock, reads: torch.Tensor, writes: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """A block whose inner channels are chosen by their importance in the trained one; the maps of its axes."""
        maps = {"in": reads, "out": writes}
        if to.paired:
            maps["out" + HALF] = writes[: to.last[0].out_channels]
        # A grouped convolution reads and writes whole groups, so that both of its axes use the same ones.
        for layer, from_layer in zip(to.branch, source.branch, strict=True):
            wide, from_wide = (x.weight.shape[1] for x in (layer, from_layer))
            if 1 < from_layer.groups < from_layer.in_channels and wide == from_wide:
                both = sum(self.importance(source, axis) for axis in (layer.reads, layer.writes))
                maps[layer.reads] = maps[layer.writes] = group_map(both, wide, layer.groups)  # type: ignore[arg-type]
        for layer in to.branch:
            if layer.writes not in maps:
                axis = layer.writes.removesuffix(HALF)
                importance, head = self.importance(source, axis), layer.head_width
                if head > 1 and axis != "out":
                    maps[axis] = group_map(importance, head, layer.axis_width // head)
                else:
                    size = layer.axis_width if axis == layer.writes else to.size(axis)
                    maps[axis] = axis_map(importance, size, paired=axis != layer.writes)
                maps[layer.writes] = maps[axis][: layer.axis_width]
        for layer, from_layer in zip(to.branch, source.branch, strict=True):
            self.layer(layer, from_layer, maps[layer.reads], maps[layer.writes])
        if source.shortcut:
            for layer, from_layer in zip(to.shortcut, source.shortcut, strict=False):
                self.layer(layer, from_layer, maps[layer.reads], maps[layer.writes])
        if to.gate is not None and source.gate is not None:
            self._squeeze(to.gate, source.gate, maps[to.gate.axis])
        return maps

    def _squeeze(self, to: NetGate, source: NetGate, channels: torch.Tensor) -> None:
        (reduce, expand, *_), (from_reduce, from_expand, *_) = to, source
        importance = absolute_norms(from_reduce.weight, 0) * absolute_norms(from_expand.weight, 1)
        inner = channel_map(importance, reduce.out_channels)
        self.weight(reduce.weight, from_reduce.weight, inner, channels)
        self.vector(reduce.bias, from_reduce.bias, inner)
        self.weight(expand.weight, from_expand.weight, channels, inner)
        self.vector(expand.bias, from_expand.bias, channels)


def _zero_branch(block: NetBlock) -> None:
    """Initialise a fresh block as the identity, where it has a skip."""
    for last in block.last if block.joined else []:
        if last.scale is not None:
            nn.init.zeros_(last.scale)
            continue
        zeroed = last.conv if last.norm is None else last.norm
        nn.init.zeros_(zeroed.weight)
        nn.init.zeros_(zeroed.bias)

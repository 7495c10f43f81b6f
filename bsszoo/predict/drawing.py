"""A prediction drawn on its picture: boxes, masks and labels, or the bars of the first labels below it."""

from __future__ import annotations

import colorsys
from functools import lru_cache
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bsszoo.predict.predict import Found, Prediction

Colour = tuple[int, int, int]
#: Pictures with a shorter side below it are enlarged, so that text on them can be read [px].
LEAST_SIDE: Final = 480
_MASK: Final = 0.45  # share of the colour over an object
_GOLDEN: Final = 0.6180339887498949
_INK: Final = (20, 22, 26)
_PAPER: Final = (255, 255, 255)


def drawn(prediction: Prediction) -> Image.Image:
    """The picture with what the network says of it."""
    scale = max(1, -(-LEAST_SIDE // min(prediction.image.size)))
    size = (prediction.image.width * scale, prediction.image.height * scale)
    image = prediction.image.resize(size, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.NEAREST)
    if prediction.objects is not None:
        return _with_objects(image, prediction.objects, scale)
    return _with_labels(image, prediction.labels or ())


def colour_of(number: int) -> Colour:
    """The colour of a label by its place, the same in every picture; places near each other have hues far apart."""
    r, g, b = colorsys.hls_to_rgb((0.58 + number * _GOLDEN) % 1, 0.42, 0.8)
    return round(255 * r), round(255 * g), round(255 * b)


def _with_objects(image: Image.Image, objects: tuple[Found, ...], scale: int) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float32).copy()
    for found in reversed(objects):  # the surest on top
        if found.mask is not None:
            covered = found.mask.repeat(scale, axis=0).repeat(scale, axis=1)
            pixels[covered] = (1 - _MASK) * pixels[covered] + _MASK * np.array(colour_of(found.number))
    made = Image.fromarray(pixels.round().astype(np.uint8))
    pen = ImageDraw.Draw(made)
    line = max(2, min(made.size) // 240)
    font = _font(max(13, min(made.size) // 36))
    for found in reversed(objects):
        pen.rectangle([v * scale for v in found.box], outline=colour_of(found.number), width=line)
    for found in reversed(objects):
        _tag(pen, found, scale, font, made.size)
    return made


def _tag(
    pen: ImageDraw.ImageDraw, found: Found, scale: int, font: ImageFont.FreeTypeFont, size: tuple[int, int]
) -> None:
    text = f"{found.label} {100 * found.score:.0f}%"
    text = " ".join(text.split())  # on one line
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    wide, high = right - left + 8, bottom - top + 6
    # Above the box, or in it where there is no room; always inside the picture.
    x = min(max(found.box[0] * scale, 0), max(size[0] - wide, 0))
    y = found.box[1] * scale - high
    y = y if y >= 0 else found.box[1] * scale
    pen.rectangle([x, y, x + wide, y + high], fill=colour_of(found.number))
    pen.text((x + 4 - left, y + 3 - top), text, fill=_PAPER, font=font)


def _with_labels(image: Image.Image, labels: tuple[tuple[str, float], ...]) -> Image.Image:
    size = max(15, image.width // 34)
    font, row = _font(size), size * 2
    made = Image.new("RGB", (image.width, image.height + row * len(labels) + size), _PAPER)
    made.paste(image)
    pen = ImageDraw.Draw(made)
    for number, (name, chance) in enumerate(labels):
        y = image.height + size // 2 + number * row
        share = f"{100 * chance:.1f}%"
        room = image.width - 3 * size - pen.textlength(share, font=font)
        pen.text((size, y), _shortened(name, room, pen, font), fill=_INK, font=font)
        pen.text((image.width - size - pen.textlength(share, font=font), y), share, fill=_INK, font=font)
        full = image.width - 2 * size
        bar = y + round(size * 1.4)
        pen.rectangle([size, bar, size + full, bar + size // 5], fill=(226, 229, 234))
        if chance * full >= 1:
            pen.rectangle([size, bar, size + chance * full, bar + size // 5], fill=colour_of(0))
    return made


def _shortened(text: str, room: float, pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont) -> str:
    text = " ".join(text.split())  # on one line
    while len(text) > 1 and pen.textlength(text, font=font) > room:
        text = text.rstrip("…")[:-1] + "…"
    return text


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # matplotlib carries one with the letters of most languages.
    from matplotlib import get_data_path

    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)

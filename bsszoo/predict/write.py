"""Predictions as files: a PNG for each picture, and all of them as values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from bsszoo.errors import RunError
from bsszoo.files import whole_file, write_whole
from bsszoo.predict.drawing import drawn
from bsszoo.predict.predict import Prediction

#: The values of all predictions, beside their pictures.
VALUES: Final = "predictions.json"


def write_predictions(predictions: Iterable[Prediction], out: Path) -> Iterator[Prediction]:
    """Write each prediction's picture into a folder, and give it on; in the end the values of all.

    Pictures of the same name become ``NAME.png``, ``NAME_2.png``, .. Files of an earlier call are replaced.

    Raises:
        RunError: The folder cannot be written.
    """
    said = []
    names: set[str] = set()
    try:
        for prediction in predictions:
            out.mkdir(parents=True, exist_ok=True)
            name = next(
                n
                for i in range(len(names) + 1)
                if (n := f"{prediction.file.stem}{f'_{i + 1}' if i else ''}.png") not in names
            )
            names.add(name)
            with whole_file(out / name) as scratch:
                drawn(prediction).save(scratch, format="PNG")
            said.append(prediction.to_dict() | {"drawn": name})
            yield prediction
    except OSError as error:
        raise RunError(
            f"The folder {out} cannot be written: {error.strerror or error}. Give another with --out."
        ) from None
    finally:
        # Also where a later picture could not be read, or a person stopped.
        if said:
            write_whole(out / VALUES, json.dumps(said, indent=2) + "\n")

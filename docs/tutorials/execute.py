"""Executes the notebooks of this folder, and writes their outputs into them.

    python docs/tutorials/execute.py                    all of them; NAME.ipynb .. for some
    python docs/tutorials/execute.py --check            executes them, and writes nothing

Each runs in an empty folder, with a cache of its own and one thread, so that it finds what a reader finds. Needs
nbclient and ipykernel (the extra ``test``).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TUTORIALS = Path(__file__).resolve().parent
ROOT = TUTORIALS.parents[1]
#: Most seconds that a cell may take on a machine that is busy otherwise.
MOST_SECONDS = 900


def environment(folder: Path) -> dict[str, str]:
    """The environment of a kernel: caches in a folder, one thread, no Hub, and the package of this checkout."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("BSSZOO_", "HF_", "XDG_", "MPL", "JPY_"))}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return kept | {
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "hub"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "MPLCONFIGDIR": str(folder / "matplotlib"),
        "IPYTHONDIR": str(folder / "ipython"),
        # Of a progress bar that nobody asked for, where ipywidgets are not installed.
        "PYTHONWARNINGS": "ignore:IProgress not found",
    }


def execute(path: Path) -> Any:
    """A notebook with the outputs that its cells give now.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell raised.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory(prefix="tutorial-") as scratch:
        folder = Path(scratch)
        here = folder / "here"
        here.mkdir()
        client = NotebookClient(
            notebook,
            timeout=MOST_SECONDS,
            kernel_name="python3",
            # It warns of other users of the machine, who could listen; there is nothing to hear.
            extra_arguments=["--log-level=40"],
            resources={"metadata": {"path": str(here)}},
            record_timing=False,
        )
        client.execute(env=environment(folder))
    return tidied(notebook)


def tidied(notebook: Any) -> Any:
    """The notebook without what differs from machine to machine and says nothing."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = {"tags": tags} if tags else {}
        merged: list[Any] = []
        for output in cell.get("outputs", []):
            # One block for what a cell prints, whichever pieces it came in.
            if merged and output.output_type == "stream" == merged[-1].output_type and output.name == merged[-1].name:
                merged[-1].text += output.text
            else:
                merged.append(output)
        if cell.cell_type == "code":
            cell.outputs = merged
    return notebook


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, execute, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="by default all of this folder")
    parser.add_argument("--check", action="store_true", help="write nothing")
    given = parser.parse_args(arguments)
    import nbformat

    for path in given.notebooks or sorted(TUTORIALS.glob("*.ipynb")):
        begun = time.perf_counter()
        notebook = execute(path)
        if not given.check:
            nbformat.write(notebook, path)
        print(f"{path.name}: {time.perf_counter() - begun:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()

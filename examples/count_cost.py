"""What a network costs, from its code alone: the total and a table stage by stage.

    python examples/count_cost.py
    python examples/count_cost.py "resnet18{32,32,128,1024,4,14,14,1}" --size 256

Nothing is built and torch is not loaded.
"""

from __future__ import annotations

import argparse
import sys

import bsszoo
from bsszoo.codes import stage_costs
from bsszoo.models import resolve_code


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description="The cost of a network, stage by stage.")
    parser.add_argument("network", nargs="?", default="mobilenetv2_130m_autobss", help="a zoo name or a code")
    parser.add_argument("--size", type=int, help="side of the image [px]; by default the code's own")
    arguments = parser.parse_args()
    try:
        code = resolve_code(arguments.network)
        stages = stage_costs(code, arguments.size)
    except bsszoo.BssZooError as error:
        sys.exit(str(error))

    print(code)
    print(f"{'stage':>5} {'name':<10} {'width':>5} {'blocks':>6} {'output':>9} {'MACs':>13} {'params':>10}")
    for row in stages:
        output = f"{row.size[0]}x{row.size[1]}"
        print(
            f"{row.number:>5} {row.name:<10} {row.width:>5} {row.depth:>6} {output:>9} "
            f"{row.cost.macs:>13,} {row.cost.params:>10,}"
        )
    total = bsszoo.cost(code, arguments.size)
    print(f"{total.macs:,} MACs (multiply-adds, the paper's FLOPs); 2 x MACs are {total.macs2:,}")
    print(f"{total.params:,} parameters, {total.activations:,} activations")


if __name__ == "__main__":
    main()

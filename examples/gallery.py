"""The small pictures of the README: runs every example that is named (default: all) and saves its picture in a folder.

python examples/gallery.py                          all of them, into examples/pictures/
python examples/gallery.py xor any_depth --to /tmp
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

from common import console, run

EXAMPLES = (
    "linear_fit",
    "two_three_two",
    "one_neuron_per_layer",
    "multi_neuron",
    "any_depth",
    "learning_rates",
    "descent_variants",
    "xor",
    "mnist_mlp",
    "loss_functions",
    "large_batch",
)


def main(arguments: list[str] | None = None) -> list[Path]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(EXAMPLES))
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    parser.add_argument("--to", type=Path, default=Path(__file__).parent / "pictures", help="the folder")
    given = parser.parse_args(arguments)
    unknown = set(given.names) - set(EXAMPLES)
    if unknown:
        parser.error(f"no such example: {', '.join(sorted(unknown))}; there are {', '.join(EXAMPLES)}")
    pictures = []
    for name in given.names or EXAMPLES:
        console.rule(name)
        pictures.append(given.to / f"{name}.png")
        import_module(name).main(["--device", given.device, "--plot", str(pictures[-1])])
    console.print(f"{len(pictures)} pictures, {sum(p.stat().st_size for p in pictures):,} bytes together")
    return pictures


if __name__ == "__main__":
    run(main)

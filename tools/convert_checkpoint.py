#!/usr/bin/env python
"""Turns another project's checkpoint into one for MODEL.WEIGHTS, and writes the config it needs."""

import argparse
import sys
from pathlib import Path

import torch
import yaml

# First: it makes Detectron2 ready for the libraries installed here. The checkout works uninstalled.
sys.path.insert(0, str(Path(__file__).parents[1]))
import axial_d2  # noqa: F401, I001
from axial_d2.checkpoint.csrhddlam_net import AUTHOR, convert_net, read_state
from axial_d2.engine import read_config
from axial_d2.engine.checkpointer import FACTS
from axial_d2.engine.loading_report import network_facts

_EXAMPLES = """\
example:
  %(prog)s csrhddlam axial50s/129.pth converted/axial50s.pth
  python tools/train_net.py --config-file converted/axial50s.yaml --eval-only

csrhddlam: the classification networks of csrhddlam/axial-deeplab (axial26s, axial50s, axial50m,
axial50l), as its train.py and dist_train.py write them, or their bare state dict. OUT loads into
AxialClassifier with the config written beside it, and as the backbone of a segmentation model.
"""


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", choices=["csrhddlam"], metavar="SOURCE", help="csrhddlam")
    parser.add_argument("input", metavar="IN", help="the project's checkpoint; it is only read")
    parser.add_argument("output", metavar="OUT", help="OUT.pth; the config is written to OUT.yaml")
    return parser


def convert(source: Path, target: Path) -> list[str]:
    """Converts a checkpoint of csrhddlam/axial-deeplab.

    Args:
        source: its file.
        target: the new file, ending in .pth; its config goes beside it.

    Returns:
        What was written, line by line.

    Raises:
        ValueError: what is wrong with either.
    """
    if target.suffix != ".pth":  # Detectron2 takes the format from the name.
        raise ValueError(f"{target}: expected a name that ends in .pth")
    if not target.parent.is_dir():
        raise ValueError(f"{target}: expected an existing folder, got no {target.parent}")
    if target.is_dir():
        raise ValueError(f"{target}: expected a file to write, got a folder")
    if target.exists() and source.exists() and target.samefile(source):
        raise ValueError(f"{target}: expected another file than IN, which is kept")
    state = read_state(source)
    try:
        model, config = convert_net(state)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    node = config["MODEL"]["AXIAL_RESNET"]
    classes = config["MODEL"]["AXIAL_CLASSIFIER"]["NUM_CLASSES"]
    config["MODEL"]["WEIGHTS"] = str(target.resolve())
    config_file = target.with_suffix(".yaml")
    config_file.write_text(yaml.safe_dump(config, sort_keys=False))
    facts = network_facts(read_config(str(config_file)))
    torch.save({"model": model, "__author__": AUTHOR, FACTS: facts}, target)
    keys = "\n".join(f"  MODEL.AXIAL_RESNET.{key} {value}" for key, value in node.items())
    return [
        f"{source}: axial network of depth {node['DEPTH']}, width {node['WIDTH_MULTIPLIER']:g}, "
        f"{classes} classes",
        f"{target}: {len(model)} tensors",
        f"{config_file}: the config that these weights need",
        keys,
        f"  MODEL.AXIAL_CLASSIFIER.NUM_CLASSES {classes}",
    ]


def main() -> int:
    """Runs the command line; returns the exit code."""
    args = argument_parser().parse_args()
    try:
        print("\n".join(convert(Path(args.input), Path(args.output))))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python
"""Measures axial_d2 against its own reference or Detectron2, alternating in one process.

    python tools/benchmark.py all --json figures.json
    python tools/benchmark.py attention --mode eval --size 129 129 --channels 128 --heads 8
    python tools/benchmark.py backbone --mode train --batch 8
    python tools/benchmark.py merging --size 1024 2048 --instances 100

Freed memory stays with the process, for ours and for the baseline, as tools/train_net.py and
tools/demo.py have it on the CPU; --default-allocator leaves it to the C library.

Time: after one warm-up of each, ours and the baseline take turns; printed are medians, the spread
(smallest to largest) and the ratio of the medians. Memory: a fresh process for each makes the
input, runs once on a small one to load what is loaded once, resets the kernel's peak counter and
runs once; printed is how far resident memory rose above where it stood. Where the kernel has no
such counter to reset (not Linux), the peak of the whole process since its start stands in.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import axial_d2  # noqa: E402, F401, I001  (first: it applies the bridges to Detectron2)
import torch  # noqa: E402

from axial_d2 import ops  # noqa: E402
from axial_d2.benchmarks import (  # noqa: E402
    CONTESTS,
    environment,
    machine_speed,
    measure,
    measure_memory,
    peak_of_one_run,
)
from axial_d2.engine.memory import keep_freed_memory  # noqa: E402
from axial_d2.ops import cpp_build  # noqa: E402

_CONFIGS = Path(__file__).resolve().parents[1] / "configs"
# Ours, the baseline.
_NETWORKS = {
    "backbone": ("imagenet-classification/axial_resnet50_s", "imagenet-classification/resnet50"),
    "model": ("cityscapes-panoptic/axial_deeplab_s", "cityscapes-panoptic/panoptic_deeplab_r50"),
    "growth": ("cityscapes-panoptic/axial_deeplab_s",) * 2,
    "train": ("cityscapes-panoptic/axial_deeplab_s", "cityscapes-panoptic/panoptic_deeplab_r50"),
    "loading": ("cityscapes-panoptic/axial_deeplab_s",) * 2,
}
_SIZES = {
    "attention": (56, 56),
    "backbone": (224, 224),
    "model": (1025, 2049),
    "growth": (1025, 2049),
    "train": (129, 257),
}
# What docs/speed.md has: the goals, then what explains them.
_ALL = (
    # Layers of Axial-ResNet-50-S and -L at 224x224, and of longer strips.
    *(
        f"attention --mode {mode} --size {size} {size} --channels {channels} --repeats {repeats}"
        for mode, repeats in (("eval", 9), ("train", 5))
        for size, channels in ((56, 64), (56, 128), (129, 64), (129, 128), (28, 128), (14, 256))
    ),
    "backbone --mode eval --batch 1 --repeats 15",
    "backbone --mode eval --batch 8",
    "backbone --mode train --batch 8",
    "merging",
    "targets",
    "loading",
    "train --batch 1 --repeats 3",
    "growth --repeats 3",
    "model --repeats 3",
)
_EVERYTHING = "What docs/speed.md has; tens of minutes on two cores."

# Options that say how is measured, or that the record has already.
_NOT_OF_THE_CONTEST = {
    "what", "size", "repeats", "threads", "json", "no_memory", "only_memory_of"
}  # fmt: skip


def run(options: argparse.Namespace, arguments: Sequence[str]) -> dict[str, Any]:
    """Measures one contest; the record that is printed and written."""
    record: dict[str, Any] = {"what": options.what, "size": list(options.size)}
    record["options"] = {k: v for k, v in vars(options).items() if k not in _NOT_OF_THE_CONTEST}
    contest = CONTESTS[options.what](tuple(options.size), options)
    record |= measure(contest, options.repeats)
    if not options.no_memory:
        for name in ("ours", "baseline"):
            command = [sys.executable, __file__, *arguments]
            record[name]["peak_bytes"] = measure_memory(command, name)
        least = max(1, record["ours"]["peak_bytes"])
        record["less_memory"] = record["baseline"]["peak_bytes"] / least
        if contest.work is not None:
            ratio = contest.work[1] / contest.work[0] / record["less_memory"]
            record["memory_per_multiply_add"] = ratio
    return record


def print_table(record: dict[str, Any]) -> None:
    """Prints one record."""
    title = " ".join(str(s) for s in (record["what"], "x".join(map(str, record["size"]))))
    print(f"{title:20} {'median s':>10} {'spread s':>19} {'peak MB':>9}")
    for name in ("ours", "baseline"):
        row = record[name]
        spread = f"{row['min']:.4f} .. {row['max']:.4f}"
        peak = f"{row['peak_bytes'] / 1e6:9.1f}" if "peak_bytes" in row else f"{'-':>9}"
        print(f"{name:20} {row['median']:10.4f} {spread:>19} {peak}")
    memory = f", memory {1 / record['less_memory']:.3g}" if "less_memory" in record else ""
    same = "; the results are the same" if record["same_result"] else ""
    print(f"ours / baseline: time {1 / record['faster']:.3g}{memory}{same}")
    for what in ("time", "memory"):
        if f"{what}_per_multiply_add" in record:
            ratio = record[f"{what}_per_multiply_add"]
            print(f"{what} per multiply-add: {ratio:.2f} of that at the smaller size")


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = (*CONTESTS, "all")
    commands = parser.add_subparsers(dest="what", required=True, metavar="|".join(names))
    every = commands.add_parser("all", help=_EVERYTHING, description=_EVERYTHING)
    every.add_argument("--repeats", type=_positive, help="runs of each (default: enough for each)")
    every.add_argument("--only", nargs="+", choices=CONTESTS, help="some of it")
    _add_common(every)
    for name, make in CONTESTS.items():
        command = commands.add_parser(name, help=make.__doc__, description=make.__doc__)
        add = command.add_argument
        size = list(_SIZES.get(name, (1024, 2048)))
        add("--size", type=_positive, nargs=2, default=size, metavar=("H", "W"))
        add("--repeats", type=_positive, default=5, help="runs of each")
        add("--seed", type=int, default=0)
        add("--only-memory-of", choices=("ours", "baseline"), help=argparse.SUPPRESS)
        _add_common(command)
        if name in _NETWORKS:
            _add_network(command, name)
    commands.choices["merging"].add_argument("--instances", type=_positive, default=100)
    for name in ("targets", "loading"):
        commands.choices[name].add_argument("--segments", type=_positive, default=60)
    _add_attention(commands.choices["attention"])
    return parser


def _add_common(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--threads", type=_positive, help="of torch (default: torch's own)")
    add("--json", type=Path, metavar="F", help="write the figures here")
    add("--no-memory", action="store_true", help="measure time only")
    add("--no-compiler", action="store_true", help="as on a machine without a C++ compiler")
    add("--default-allocator", action="store_true", help="freed memory may go back to the system")


def _add_network(command: argparse.ArgumentParser, name: str) -> None:
    ours, baseline = (str(_CONFIGS / f"{path}.yaml") for path in _NETWORKS[name])
    command.add_argument("--config", default=ours, metavar="FILE", help="default: %(default)s")
    if name not in ("growth", "loading"):
        command.add_argument("--baseline-config", default=baseline, metavar="FILE")
        command.add_argument("--batch", type=_positive, default=1)
    if name == "backbone":
        command.add_argument("--mode", choices=("train", "eval"), default="eval")


def _add_attention(command: argparse.ArgumentParser) -> None:
    add, backends = command.add_argument, ("auto", *ops.BACKENDS)
    add("--mode", choices=("train", "eval"), default="train")
    add("--batch", type=_positive, default=4)
    add("--channels", type=_positive, default=64, help="in and out; the values' of all heads")
    add("--heads", type=_positive, default=8)
    add("--axis", choices=("height", "width"), default="width")
    add("--span", type=int, default=0, help="odd, or 0 for the whole strip")
    add("--backend", choices=backends, default="auto", help="ours")
    add("--baseline", choices=backends, default="reference", help="whose norms are not folded")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def main(arguments: list[str] | None = None) -> None:
    """Measures what the command line asks for."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = argument_parser().parse_args(arguments)
    if options.no_compiler:
        os.environ[cpp_build.SWITCH] = "0"
    kept = not options.default_allocator and keep_freed_memory()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.what != "all" and options.only_memory_of:
        make = CONTESTS[options.what]
        size = tuple(options.size)
        print(peak_of_one_run(lambda s: make(s, options), size, options.only_memory_of))
        return
    if options.json and options.json.is_dir():
        raise SystemExit(f"--json: expected a file, {options.json} is a folder")
    if options.json and not options.json.parent.is_dir():
        raise SystemExit(f"--json: the folder {options.json.parent} does not exist")
    versions = {"axial_d2": axial_d2.__version__, **environment(), **machine_speed()}
    versions["freed_memory"] = "stays" if kept else "as the C library has it"
    records: list[dict[str, Any]] = []
    print(", ".join(f"{key} {value}" for key, value in versions.items()))
    for line in _lines(options, arguments):
        try:
            records.append(run(argument_parser().parse_args(line), line))
        except (AssertionError, OSError, RuntimeError, ValueError) as error:
            raise SystemExit(f"{line[0]}: {error}") from error
        if options.what == "all":
            print(f"\n{' '.join(line)}")
        print_table(records[-1])
        if options.json:  # After each: an hour's work is not to be lost.
            text = json.dumps({"environment": versions, "results": records}, indent=1)
            options.json.write_text(text)
    if options.json:
        print(f"wrote {options.json}")


def _lines(options: argparse.Namespace, arguments: list[str]) -> list[list[str]]:
    """The command lines of single contests."""
    if options.what != "all":
        return [arguments]
    flags = ("no_memory", "no_compiler", "default_allocator")
    common = [f"--{flag.replace('_', '-')}" for flag in flags if getattr(options, flag)]
    for name in ("threads", "repeats"):
        if getattr(options, name):
            common += [f"--{name}", str(getattr(options, name))]
    lines = [line.split() for line in _ALL]
    return [[*words, *common] for words in lines if words[0] in (options.only or CONTESTS)]


if __name__ == "__main__":
    main()

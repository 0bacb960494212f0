"""Measures axial_d2 against Detectron2 or its own reference, alternating in one process.

    python tools/benchmark.py merging --size 1024 2048 --instances 100 --json merging.json
    python tools/benchmark.py targets --segments 60 --threads 1 --json targets.json
    python tools/benchmark.py attention --size 32 64 --channels 32 --heads 2 --baseline blocked

Time: after one warm-up of each, ours and the baseline take turns; printed are medians, the spread
(smallest to largest) and the ratio of the medians. Memory: a fresh process for each makes the
input, runs once on a small one to load what is loaded once, resets the kernel's peak counter and
runs once; printed is how far resident memory rose above where it stood. Where the kernel has no
such counter to reset (not Linux), the peak of the whole process since its start stands in.
"""

import argparse
import contextlib
import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import axial_d2  # noqa: E402, I001  (first: it applies the bridges to Detectron2)
import numpy as np  # noqa: E402
import torch  # noqa: E402

CLASSES, THINGS = 19, range(11, 19)  # as in Cityscapes


class Contest(NamedTuple):
    """What is measured: two functions without arguments, and a check that they agree."""

    ours: Callable[[], Any]
    baseline: Callable[[], Any]
    agree: Callable[[Any, Any], bool]


def merging(size: tuple[int, int], options: argparse.Namespace) -> Contest:
    """Merging of random maps: blocks of classes, centres of one pixel, noisy offsets."""
    from detectron2.projects.panoptic_deeplab.post_processing import get_panoptic_segmentation

    from axial_d2.panoptic import panoptic_segmentation

    height, width = size
    generator = torch.Generator().manual_seed(options.seed)
    grid = (1, 1, -(-height // 64), -(-width // 64))
    blocks = torch.randint(0, CLASSES, grid, generator=generator).float()
    semantic = torch.nn.functional.interpolate(blocks, size=size, mode="nearest")[0, 0].long()
    heatmap = torch.zeros(height * width)
    # On a grid wider than the non-maximum suppression, so that every centre stays.
    step = 8
    places = torch.cartesian_prod(torch.arange(0, height, step), torch.arange(0, width, step))
    chosen = places[torch.randperm(len(places), generator=generator)[: options.instances]]
    heatmap[chosen[:, 0] * width + chosen[:, 1]] = torch.linspace(0.2, 1, len(chosen))
    heatmap = heatmap.view(size)
    offset = torch.randn(2, height, width, generator=generator) * 10
    settings: dict[str, Any] = {
        "thing_ids": set(THINGS),
        "label_divisor": 1000,
        "stuff_area": 2048,
        "void_label": -1,
        "threshold": 0.1,
        "nms_kernel": 7,
        "top_k": None,
    }
    return Contest(
        lambda: panoptic_segmentation(semantic, heatmap, offset, **settings).panoptic,
        # A copy: the baseline overwrites its heat-map.
        lambda: get_panoptic_segmentation(
            semantic[None], heatmap[None].clone(), offset, **settings
        )[0][0],
        torch.equal,
    )


def targets(size: tuple[int, int], options: argparse.Namespace) -> Contest:
    """Targets of a random scene: discs over a background, every second one a thing."""
    from detectron2.projects.panoptic_deeplab.target_generator import (
        PanopticDeepLabTargetGenerator,
    )

    from axial_d2.panoptic import PanopticTargets

    height, width = size
    rng = np.random.default_rng(options.seed)
    panoptic: np.ndarray = np.full(size, 1, dtype=np.int32)
    y, x = np.mgrid[:height, :width]
    infos = [{"id": 1, "category_id": 0, "iscrowd": 0}]
    for n in range(2, options.segments + 1):
        radius = rng.uniform(0.02, 0.2) * height
        inside = np.hypot(y - rng.uniform(0, height), x - rng.uniform(0, width)) < radius
        panoptic[inside] = n * 1000
        label = int(rng.choice(THINGS)) if n % 2 else n % THINGS.start
        infos.append({"id": n * 1000, "category_id": label, "iscrowd": int(n % 17 == 0)})
    settings: dict[str, Any] = {
        "ignore_label": 255,
        "thing_ids": set(THINGS),
        "sigma": 10,
        "small_instance_area": 4096,
        "small_instance_weight": 3,
    }
    ours = PanopticTargets(**settings)
    baseline = PanopticDeepLabTargetGenerator(**settings)

    def agree(a: dict[str, Any], b: dict[str, Any]) -> bool:
        return a.keys() == b.keys() and all(
            torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k] for k in a
        )

    return Contest(lambda: ours(panoptic, infos), lambda: baseline(panoptic, infos), agree)


def attention(size: tuple[int, int], options: argparse.Namespace) -> Contest:
    """One attention layer in training, forward and backward, on a feature map of that size."""
    from axial_d2 import ops
    from axial_d2.layers import AxialAttention1d

    torch.manual_seed(options.seed)
    channels = options.channels
    layer = AxialAttention1d(
        in_channels=channels,
        out_channels=channels,
        axis=options.axis,
        num_heads=options.heads,
        span=options.span,
    )
    x = torch.randn(options.batch, channels, *size).to(memory_format=torch.channels_last)
    x.requires_grad_()
    wave = torch.randn(options.batch, channels, *size)

    def step(backend: str) -> tuple[torch.Tensor, ...]:
        with ops.use_backend(backend):
            y = layer(x)
            return y.detach(), *torch.autograd.grad((y * wave).sum(), [x, layer.qkv.weight])

    def agree(a: tuple[torch.Tensor, ...], b: tuple[torch.Tensor, ...]) -> bool:
        # Single precision, sums in another order.
        pairs = zip(a, b, strict=True)
        return all((one - other).abs().max() < 1e-4 * other.abs().max() for one, other in pairs)

    return Contest(lambda: step(options.backend), lambda: step(options.baseline), agree)


CONTESTS = {"merging": merging, "targets": targets, "attention": attention}


def measure_times(contest: Contest, repeats: int) -> dict[str, list[float]]:
    """Seconds of each run, ours and the baseline taking turns."""
    times: dict[str, list[float]] = {"ours": [], "baseline": []}
    for n in range(repeats):
        # Who goes first changes, so that neither always runs on what the other left behind.
        for name in ("ours", "baseline") if n % 2 else ("baseline", "ours"):
            run = getattr(contest, name)
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return times


def measure_memory(arguments: list[str], who: str) -> int:
    """Bytes by which one run raises resident memory, in a process of its own."""
    command = [sys.executable, __file__, *arguments, "--only-memory-of", who]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the memory measurement of {who} failed:\n{done.stderr.strip()}")
    return int(done.stdout.split()[-1])


def peak_of_one_run(make: Callable[..., Contest], options: argparse.Namespace, who: str) -> int:
    """Peak of resident memory during one run above what stood before it, in bytes."""
    getattr(make((64, 128), options), who)()
    run = getattr(make(tuple(options.size), options), who)
    _release_freed_heap()
    before = _resident("VmRSS") if _reset_peak() else 0
    run()
    return _resident("VmHWM") - before


def _release_freed_heap() -> None:
    """What the allocator keeps of earlier work would hide a part of the rise."""
    with contextlib.suppress(OSError, AttributeError):  # glibc has it, others don't
        ctypes.CDLL(None).malloc_trim(0)


def _reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: VmHWM = VmRSS
    except OSError:
        return False
    return True


def _resident(field: str) -> int:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return int(status.split(field + ":")[1].split()[0]) * 1024


# Options that say how is measured, or that the record has already.
_NOT_OF_THE_CONTEST = {
    "what", "size", "repeats", "threads", "json", "no_memory", "only_memory_of"
}  # fmt: skip


def run(options: argparse.Namespace, arguments: list[str]) -> dict[str, Any]:
    """Measures one contest; the record that is printed and written."""
    contest = CONTESTS[options.what](tuple(options.size), options)
    if not contest.agree(contest.ours(), contest.baseline()):  # the warm-up as well
        raise RuntimeError(f"{options.what}: ours and the baseline do not give the same result")
    record: dict[str, Any] = {"what": options.what, "size": options.size, "same_result": True}
    record["options"] = {k: v for k, v in vars(options).items() if k not in _NOT_OF_THE_CONTEST}
    for name, seconds in measure_times(contest, options.repeats).items():
        median, low, high = statistics.median(seconds), min(seconds), max(seconds)
        record[name] = {"seconds": seconds, "median": median, "min": low, "max": high}
    record["faster"] = record["baseline"]["median"] / record["ours"]["median"]
    if not options.no_memory:
        for name in ("ours", "baseline"):
            record[name]["peak_bytes"] = measure_memory(arguments, name)
        least = max(1, record["ours"]["peak_bytes"])
        record["less_memory"] = record["baseline"]["peak_bytes"] / least
    return record


def environment() -> dict[str, Any]:
    """What the figures depend on."""
    import detectron2

    return {
        "threads": torch.get_num_threads(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "detectron2": detectron2.__version__,
        "axial_d2": axial_d2.__version__,
    }


def print_table(record: dict[str, Any], versions: dict[str, Any]) -> None:
    print(", ".join(f"{key} {value}" for key, value in versions.items()))
    title = " ".join(str(s) for s in (record["what"], "x".join(map(str, record["size"]))))
    print(f"{title:20} {'median s':>10} {'spread s':>19} {'peak MB':>9}")
    for name in ("ours", "baseline"):
        row = record[name]
        spread = f"{row['min']:.4f} .. {row['max']:.4f}"
        peak = f"{row['peak_bytes'] / 1e6:9.1f}" if "peak_bytes" in row else f"{'-':>9}"
        print(f"{name:20} {row['median']:10.4f} {spread:>19} {peak}")
    less = f", {record['less_memory']:.1f} times less memory" if "less_memory" in record else ""
    print(f"ours is {record['faster']:.1f} times faster{less}; the results are the same")


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="what", required=True, metavar="|".join(CONTESTS))
    for name, make in CONTESTS.items():
        command = commands.add_parser(name, help=make.__doc__, description=make.__doc__)
        add = command.add_argument
        add("--size", type=_positive, nargs=2, default=[1024, 2048], metavar=("H", "W"))
        add("--repeats", type=_positive, default=5, help="runs of each")
        add("--threads", type=_positive, help="of torch (default: torch's own)")
        add("--seed", type=int, default=0)
        add("--json", type=Path, metavar="F", help="write the figures here")
        add("--no-memory", action="store_true", help="measure time only")
        add("--only-memory-of", choices=("ours", "baseline"), help=argparse.SUPPRESS)
    commands.choices["merging"].add_argument("--instances", type=_positive, default=100)
    commands.choices["targets"].add_argument("--segments", type=_positive, default=60)
    _add_attention(commands.choices["attention"])
    return parser


def _add_attention(command: argparse.ArgumentParser) -> None:
    from axial_d2 import ops

    command.set_defaults(size=[32, 64])
    add, backends = command.add_argument, ("auto", *ops.BACKENDS)
    add("--batch", type=_positive, default=4)
    add("--channels", type=_positive, default=32, help="in and out; the values' of all heads")
    add("--heads", type=_positive, default=2)
    add("--axis", choices=("height", "width"), default="width")
    add("--span", type=int, default=0, help="odd, or 0 for the whole strip")
    add("--backend", choices=backends, default="auto", help="ours")
    add("--baseline", choices=backends, default="reference")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = argument_parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.only_memory_of:
        print(peak_of_one_run(CONTESTS[options.what], options, options.only_memory_of))
        return
    if options.json and not options.json.parent.is_dir():
        raise SystemExit(f"--json: the folder {options.json.parent} does not exist")
    record, versions = run(options, arguments), environment()
    print_table(record, versions)
    if options.json:
        options.json.write_text(
            json.dumps({"environment": versions, "results": [record]}, indent=1)
        )
        print(f"wrote {options.json}")


if __name__ == "__main__":
    main()

"""Compiles the Triton kernels for a GPU that need not be here, and prints what they take of it.

    python dev/compile_kernels.py
    python dev/compile_kernels.py --capability 90 --dtype fp16 --channels 16

Registers of a thread, bytes of its local memory (what did not fit the registers) and shared memory
of a program. Tiles and stages are those that a run would choose.
"""

import argparse
import re
import subprocess
import tempfile
from pathlib import Path

import torch
import triton
from triton import language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

from axial_d2.ops.triton import kernels
from axial_d2.ops.triton.sizes import NUM_WARPS, block_size, stages

DTYPES = {
    "bf16": (torch.bfloat16, tl.bfloat16),
    "fp16": (torch.float16, tl.float16),
    "fp32": (torch.float32, tl.float32),
}
KERNELS = ("attention", "queries_backward", "keys_backward", "rows_backward", "moments")
# Arguments that are in single precision whatever the operands are.
SINGLE = {"numbers", "scale", "sums", "delta", "scale_grad", "parts"}
SINGLE |= {"rq_grad", "rk_grad", "rv_grad"}


def compiled(name: str, capability: int, dtype: str, channels: int, of_moments: bool):
    """One kernel for values of that many channels, and queries of half."""
    kernel = getattr(kernels, name)
    block = block_size(10**6, channels, DTYPES[dtype][0])
    constants = {
        "BLOCK": block,
        "DEPTH": max(16, channels // 2),
        "VALUES": max(16, channels),
        "MOMENTS": of_moments,
        "DTYPE": DTYPES[dtype][1],
        "PRECISION": "tf32x3",
    }
    types = {}
    for argument in kernel.arg_names:
        if argument in constants:
            types[argument] = "constexpr"
        elif argument.endswith("_strides"):
            types[argument] = ("i32",) * 5
        elif argument.endswith("_at"):
            single = argument.removesuffix("_at") in SINGLE
            types[argument] = "*fp32" if single else f"*{dtype}"
        else:
            types[argument] = "i32"
    places = {
        (kernel.arg_names.index(k),): v for k, v in constants.items() if k in kernel.arg_names
    }
    options = {"num_warps": NUM_WARPS, "num_stages": stages(DTYPES[dtype][0])}
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(ASTSource(kernel, types, places), target=target, options=options), block


def registers(kernel: CompiledKernel) -> tuple[str, str]:
    """Of a thread: registers, and bytes of local memory; "?" where no tool tells."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    if not tool.exists():
        return "?", "?"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [str(tool), "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    return (found[1], found[2]) if found else ("?", "?")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--capability", type=int, default=80, help="of the GPU: 80, 86, 89, 90 ...")
    parser.add_argument("--dtype", choices=DTYPES, help="of the operands; default: all")
    parser.add_argument("--channels", type=int, help="of a value; default: 16, 64 and 128")
    options = parser.parse_args()
    print("| kernel | type | channels | tile | registers | local bytes | shared KB |")
    print("|---|---|---|---|---|---|---|")
    for dtype in [options.dtype] if options.dtype else DTYPES:
        for channels in [options.channels] if options.channels else (16, 64, 128):
            for name in KERNELS:
                for of_moments in (False, True) if name.endswith("backward") else (False,):
                    kernel, block = compiled(name, options.capability, dtype, channels, of_moments)
                    used, spilled = registers(kernel)
                    label = f"{name}, moments" if of_moments else name
                    shared = f"{kernel.metadata.shared / 1024:.1f}"
                    row = (label, dtype, channels, block, used, spilled, shared)
                    print(f"| {' | '.join(map(str, row))} |", flush=True)


if __name__ == "__main__":
    main()

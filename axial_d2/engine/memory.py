"""The C library's allocator, told to keep what it has."""

import ctypes
import sys

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_PAD = 64 << 20


def keep_freed_memory() -> bool:
    """Makes glibc reuse freed memory instead of handing it back to the system.

    A step on the CPU frees and takes the same few megabytes thousands of times. Handed back, each
    page comes anew from the system with its first touch: 6 to 7 % of the quickstart's step, and a
    quarter of that of the COCO pictures, whose logits of 133 classes are 87 MB, and about half
    of the time for a picture of 1025x2049 pixels (docs/speed.md). The process then keeps nearly the
    largest memory it has needed, up to 2 GB, and a little more for the gaps.

    Returns:
        Whether there was a glibc that took the settings; nothing happens elsewhere.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    settings = (
        (_M_MMAP_MAX, 0),  # Blocks mapped on their own go back at once; from 32 MB on all are.
        (_M_TRIM_THRESHOLD, 2**31 - 1),
        (_M_TOP_PAD, _PAD),
    )
    return all(mallopt(key, value) == 1 for key, value in settings)

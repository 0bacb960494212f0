"""Softmax without a look for the largest logit, where none is large.

torch's own goes through each row three times, and takes rows that are shorter than a vector
register number by number (14 keys with AVX-512: 40 times as long as exp2). Here numbers that differ
from a softmax by a factor per row come from one pass over the map, whatever its rows; the factor is
left to what is done with them.
"""

import torch
from torch import Tensor

from axial_d2.ops.reference import is_concrete

LOG2_E = 1.4426950408889634
# Where the sums are between this and its inverse, no power was too large for a number, and none too
# small that counts in a sum; values that powers are multiplied by may have 14 digits.
MOST = 2.0**80


def powers(logits: Tensor, ones: Tensor, out: Tensor) -> Tensor:
    """2 to the logits but for a factor per row; divided by their sums they are the softmax.

    Args:
        logits: (..., J) in one piece, in units of log 2; overwritten.
        ones: (J, 1).
        out: where the powers go; like `logits`.

    Returns:
        The sums, (..., 1). Of rows that are all minus infinity, or not numbers, NaN.
    """
    if is_concrete(logits):
        sums = _powers(logits, ones, out)
        if logits.is_meta:  # As if they were as most are.
            return sums
        least, most = (t.item() for t in sums.aminmax())
        if 1 / MOST < least and most < MOST:
            return sums
    logits.sub_(logits.amax(dim=-1, keepdim=True))
    return _powers(logits, ones, out)


def _powers(logits: Tensor, ones: Tensor, out: Tensor) -> Tensor:
    torch.exp2(logits, out=out)
    return out @ ones  # As a product: sums of short rows are slow.

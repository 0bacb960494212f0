"""Detectron2's names of norms, as the factories that the layers take."""

from collections.abc import Callable
from functools import partial

from detectron2.layers import get_norm
from torch import nn

from axial_d2.layers import LogitNorm
from axial_d2.layers.logit_norm import KINDS

# Detectron2 names torch's own synchronised batch norm twice.
_LOGIT_KINDS = {kind: kind for kind in KINDS} | {
    "nnSyncBN": "SyncBN",
    "naiveSyncBN_N": "naiveSyncBN",
}


def norm_factory(name: str, key: str) -> Callable[[int], nn.Module]:
    """A function from channels to a norm.

    Args:
        name: one that Detectron2's `get_norm` knows.
        key: the config key it comes from, for the message.

    Raises:
        ValueError: the name is empty or unknown.
    """
    try:
        known = get_norm(name, 32)  # 32: GroupNorm's fixed number of groups must divide it.
    except KeyError:
        known = None
    if known is None:
        raise ValueError(
            f"{key}: expected a norm that Detectron2 knows (BN, SyncBN, naiveSyncBN, FrozenBN, "
            f"GN), got {name!r}"
        )
    return partial(get_norm, name)


def logit_norm_factory(name: str) -> Callable[[int], nn.Module]:
    """The norm on the logits that goes with a norm on features: of the batch family, always."""
    return partial(LogitNorm, kind=_LOGIT_KINDS.get(name, "BN"))

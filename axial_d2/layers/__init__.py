"""Axial and local attention as modules, and the blocks of Axial-ResNet. Needs torch alone."""

from axial_d2.layers.axial_attention import AxialAttention1d, AxialAttention2d, NormFactory
from axial_d2.layers.bottleneck import AxialBottleneck
from axial_d2.layers.drop_path import DropPath
from axial_d2.layers.folding import unfolded
from axial_d2.layers.local_attention import LocalAttention2d
from axial_d2.layers.logit_norm import LogitNorm
from axial_d2.layers.position_table import FitsTablesOnLoad, RelativePositionTable
from axial_d2.layers.recompute import recomputed
from axial_d2.layers.stem import AxialStem, ConvStem, conv3_stem, conv7_stem

__all__ = [
    "AxialAttention1d",
    "AxialAttention2d",
    "AxialBottleneck",
    "AxialStem",
    "ConvStem",
    "DropPath",
    "LocalAttention2d",
    "FitsTablesOnLoad",
    "LogitNorm",
    "NormFactory",
    "RelativePositionTable",
    "conv3_stem",
    "conv7_stem",
    "recomputed",
    "unfolded",
]

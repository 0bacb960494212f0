"""Axial-ResNet and Axial-DeepLab in Detectron2's registries."""

from axial_d2.modeling.axial_deeplab import AxialDeepLab
from axial_d2.modeling.axial_resnet import AxialResNet, build_axial_resnet_backbone
from axial_d2.modeling.classifier import AxialClassifier
from axial_d2.modeling.decoders import Decoder, build_decoder
from axial_d2.modeling.heads import AxialDeepLabInsEmbedHead, AxialDeepLabSemSegHead
from axial_d2.modeling.table_loading import fit_tables_in_checkpointers

__all__ = [
    "AxialClassifier",
    "AxialDeepLab",
    "AxialDeepLabInsEmbedHead",
    "AxialDeepLabSemSegHead",
    "AxialResNet",
    "Decoder",
    "build_axial_resnet_backbone",
    "build_decoder",
]

fit_tables_in_checkpointers()

"""Which mapper a config gets."""

from typing import Any

from .classification_mapper import ClassificationMapper
from .mapper import AxialDeepLabDatasetMapper

#: Meta-architectures that are trained on folders of classes; all others on panoptic datasets.
CLASSIFIERS = ("AxialClassifier",)


def build_mapper(cfg: Any, is_train: bool) -> ClassificationMapper | AxialDeepLabDatasetMapper:
    """The mapper for MODEL.META_ARCHITECTURE.

    Args:
        cfg: the whole config.
        is_train: for training, or for evaluation.

    Returns:
        From dataset dict to the model's input.

    Raises:
        ValueError: a value of INPUT that the mapper refuses.
    """
    if cfg.MODEL.META_ARCHITECTURE in CLASSIFIERS:
        return ClassificationMapper(cfg, is_train=is_train)
    return AxialDeepLabDatasetMapper(cfg, is_train=is_train)

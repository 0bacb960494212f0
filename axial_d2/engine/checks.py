"""What can be known to be wrong before the first iteration, looked for before it."""

from collections.abc import Iterator, Sequence

import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from axial_d2.engine.checkpointer import last_checkpoint
from axial_d2.engine.errors import SetupError
from axial_d2.engine.solver_checks import check_solver

# Meta-architectures whose classes are counted by MODEL.SEM_SEG_HEAD.NUM_CLASSES.
_PANOPTIC = ("AxialDeepLab", "PanopticDeepLab")


def check_before_training(cfg: CfgNode) -> None:
    """Checks config, files and datasets of a training. Every process may call it.

    Args:
        cfg: the whole config, its datasets registered.

    Raises:
        SetupError: the first mistake found.
    """
    if not cfg.DATASETS.TRAIN:
        raise SetupError("DATASETS.TRAIN: expected the name of a dataset to train on, got none")
    if cfg.SOLVER.MAX_ITER < 1:
        raise SetupError(f"SOLVER.MAX_ITER: expected 1 or more, got {cfg.SOLVER.MAX_ITER}")
    check_solver(cfg)
    _check_batch(cfg)
    _check_processes(cfg)
    check_test_augmentation(cfg)
    check_weights_file(cfg)
    _check_datasets(cfg, (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))


def check_before_evaluation(cfg: CfgNode, *, resume: bool) -> None:
    """Checks what an evaluation without training needs.

    Args:
        cfg: the whole config, its datasets registered.
        resume: the last checkpoint of OUTPUT_DIR is to be taken.

    Raises:
        SetupError: no weights, or the first mistake found.
    """
    if not cfg.DATASETS.TEST:
        raise SetupError("DATASETS.TEST: expected the name of a dataset to evaluate, got none")
    if not (resume and last_checkpoint(cfg.OUTPUT_DIR)):
        require_weights(cfg)
    check_test_augmentation(cfg)
    _check_datasets(cfg, cfg.DATASETS.TEST)


def require_weights(cfg: CfgNode) -> None:
    """Refuses a config without trained weights.

    Args:
        cfg: MODEL.WEIGHTS and OUTPUT_DIR are read.

    Raises:
        SetupError: MODEL.WEIGHTS is empty or names a file that is not there; where OUTPUT_DIR has a
            checkpoint, the message names it.
    """
    found = last_checkpoint(cfg.OUTPUT_DIR)
    hint = f" (OUTPUT_DIR has one: {found})" if found else ""
    if not cfg.MODEL.WEIGHTS:
        raise SetupError(f"MODEL.WEIGHTS: expected a file with trained weights, got none{hint}")
    check_weights_file(cfg)


def check_weights_file(cfg: CfgNode) -> None:
    """Refuses a MODEL.WEIGHTS that names a file which is not there; addresses are let through.

    Args:
        cfg: MODEL.WEIGHTS and OUTPUT_DIR are read.

    Raises:
        SetupError: no such file.
    """
    path = cfg.MODEL.WEIGHTS
    if not path or "://" in path or PathManager.isfile(path):
        return
    found = last_checkpoint(cfg.OUTPUT_DIR)
    hint = f" (OUTPUT_DIR has one: {found})" if found else ""
    raise SetupError(f"MODEL.WEIGHTS: no such file: {path}{hint}")


def check_test_augmentation(cfg: CfgNode) -> None:
    """Refuses TEST.AUG.ENABLED where the model would pass over it, and scales that are none.

    Args:
        cfg: the whole config.

    Raises:
        SetupError: another meta-architecture than AxialDeepLab, or a mistake in TEST.AUG.SCALES.
    """
    from axial_d2.modeling.tta import MultiScaleFlip

    if not cfg.TEST.AUG.ENABLED:
        return
    if cfg.MODEL.META_ARCHITECTURE != "AxialDeepLab":
        raise SetupError(
            "TEST.AUG.ENABLED: multi-scale and flip testing is AxialDeepLab's; expected False with "
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE}, got True"
        )
    try:
        MultiScaleFlip(scales=cfg.TEST.AUG.SCALES, flip=cfg.TEST.AUG.FLIP)
    except ValueError as error:
        raise SetupError(str(error)) from error


def _check_batch(cfg: CfgNode) -> None:
    batch, world = cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size()
    if batch < 1:
        raise SetupError(f"SOLVER.IMS_PER_BATCH: expected 1 or more, got {batch}")
    if cfg.SOLVER.REFERENCE_WORLD_SIZE:
        return  # Detectron2 scales the batch to the number of processes itself.
    if batch < world or batch % world:
        raise SetupError(
            f"SOLVER.IMS_PER_BATCH: expected a multiple of the {world} processes, which share it; "
            f"got {batch}"
        )


def _check_processes(cfg: CfgNode) -> None:
    """What torch cannot do on a CPU with several processes."""
    if comm.get_world_size() == 1 or cfg.MODEL.DEVICE != "cpu":
        return
    if dist.get_backend() == "nccl":
        raise SetupError(
            "MODEL.DEVICE: cpu with several processes, but the processes talk through the GPUs "
            "(nccl); hide the GPUs with CUDA_VISIBLE_DEVICES= to train on the CPU"
        )
    keys = sync_bn_keys(cfg)
    if is_classifier(cfg):
        # It has no heads, but Detectron2's defaults for them stand in its config.
        keys = [key for key in keys if "HEAD" not in key]
    if keys and (cfg.MODEL.META_ARCHITECTURE in _PANOPTIC or is_classifier(cfg)):
        raise SetupError(
            f"SyncBN works on GPUs only, and this is a training of {comm.get_world_size()} CPU "
            f"processes: set naiveSyncBN or BN for {', '.join(keys)}"
        )


def sync_bn_keys(cfg: CfgNode) -> list[str]:
    """The keys of norms that are SyncBN, which works on GPUs only where several processes train."""
    return sorted(key for key, value in _leaves(cfg) if value == "SyncBN" and key.endswith("NORM"))


def _leaves(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in node.items():
        if isinstance(value, CfgNode):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _check_datasets(cfg: CfgNode, names: tuple[str, ...]) -> None:
    from axial_d2 import data

    names = tuple(dict.fromkeys(names))
    try:
        data.check_names(cfg)
        for name in names:
            _check_kind(cfg, name)
        # One process looks; where it finds a fault it ends, and the launcher ends the others.
        if cfg.DATASETS.CHECK and comm.is_main_process():
            data.check_datasets(names)
        for name in names:
            _check_classes(cfg, name)
    except (ValueError, OSError) as error:
        raise SetupError(str(error)) from error


def names_to_check(cfg: CfgNode, names: Sequence[str]) -> list[str]:
    """The datasets that a command is to look at.

    Args:
        cfg: from `load_datasets`.
        names: given on the command line; without any DATASETS.TRAIN and TEST.

    Returns:
        Names, none twice.

    Raises:
        SetupError: none at all, one that is not registered, or one that is neither of segmentation
            nor of class folders.
    """
    from axial_d2 import data
    from axial_d2.data.classes import is_segmentation

    chosen = list(dict.fromkeys(names or (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)))
    if not chosen:
        raise SetupError("expected the names of datasets, or a config that has some; got none")
    try:
        for name in chosen:
            data.check_dataset_name(name, "datasets")
    except ValueError as error:
        raise SetupError(str(error)) from error
    for name in chosen:
        known = data.is_image_folder(name) or "panoptic_json" in vars(MetadataCatalog.get(name))
        if not known and not is_segmentation(name):
            raise SetupError(
                f"datasets: {name} is neither one of segmentation nor of class folders"
            )
    return chosen


def is_classifier(cfg: CfgNode) -> bool:
    """Whether the model is one for image classification, not for segmentation."""
    from axial_d2.data import CLASSIFIERS

    return cfg.MODEL.META_ARCHITECTURE in CLASSIFIERS


def _check_kind(cfg: CfgNode, name: str) -> None:
    """A classifier learns from folders of classes, a segmentation model from a panoptic truth."""
    from axial_d2.data import is_image_folder

    model = cfg.MODEL.META_ARCHITECTURE
    if is_classifier(cfg) and not is_image_folder(name):
        expected = "a dataset of class folders (see DATASETS.IMAGE_FOLDERS)"
    elif model in _PANOPTIC and is_image_folder(name):
        expected = "a panoptic dataset"
    else:
        return
    key = "TRAIN" if name in cfg.DATASETS.TRAIN else "TEST"
    raise SetupError(f"DATASETS.{key}: expected {expected} for the model {model}, got {name!r}")


def _check_classes(cfg: CfgNode, name: str) -> None:
    if is_classifier(cfg):
        from axial_d2.data import classes_of

        expected, came = len(classes_of(name)), cfg.MODEL.AXIAL_CLASSIFIER.NUM_CLASSES
        if came != expected:
            raise SetupError(
                f"MODEL.AXIAL_CLASSIFIER.NUM_CLASSES: expected {expected}, the number of class "
                f"folders of dataset {name}, got {came}"
            )
    if cfg.MODEL.META_ARCHITECTURE not in _PANOPTIC:
        return
    from axial_d2.data.classes import BACKGROUND, segment_classes

    classes = segment_classes(name)
    came = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if came != len(classes.names):
        last = f" with '{BACKGROUND}', the last" if classes.truth == "instances" else ""
        raise SetupError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES: expected {len(classes.names)}, the number of "
            f"categories of dataset {name}{last}, got {came}"
        )

"""The meta-architecture: backbone, two branches, and the merging of their maps."""

from collections.abc import Iterable, Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone, build_sem_seg_head
from detectron2.modeling.backbone import Backbone
from detectron2.projects.panoptic_deeplab.panoptic_seg import build_ins_embed_branch
from detectron2.structures import BitMasks, ImageList, Instances
from torch import Tensor, nn
from torch.nn import functional as F

from axial_d2.data.classes import SegmentClasses, segment_classes
from axial_d2.data.datasets.custom import register_custom
from axial_d2.layers import FitsTablesOnLoad
from axial_d2.modeling.tta import CoarseMaps, MultiScaleFlip
from axial_d2.panoptic import Segments, find_segments, panoptic_segmentation, resize_offsets

_VOID = -1


@META_ARCH_REGISTRY.register()
class AxialDeepLab(FitsTablesOnLoad):
    """Axial-DeepLab (ECCV 2020): an axial backbone under Panoptic-DeepLab's two branches.

    Any backbone of Detectron2 and Detectron2's own Panoptic-DeepLab heads fit as well.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: nn.Module,
        ins_embed_head: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        thing_ids: Iterable[int],
        label_divisor: int = 1000,
        stuff_area: int = 2048,
        center_threshold: float = 0.1,
        nms_kernel: int = 7,
        top_k: int = 200,
        predict_instances: bool = True,
        size_divisibility: int = -1,
        augmentation: MultiScaleFlip | None = None,
    ) -> None:
        """Puts the model together.

        Args:
            backbone: gives the features.
            sem_seg_head: `AxialDeepLabSemSegHead` or one like it.
            ins_embed_head: `AxialDeepLabInsEmbedHead` or one like it.
            pixel_mean: per channel, taken from the picture's values of 0 to 255.
            pixel_std: per channel, divides what is left.
            thing_ids: contiguous ids of the thing classes.
            label_divisor: above the number of instances of one class in a picture.
            stuff_area: smaller stuff regions become void; pixels of the output.
            center_threshold: lowest heat-map value of a centre, 0 to 1.
            nms_kernel: side of the square in which a centre must be the highest, output pixels.
            top_k: most centres per picture.
            predict_instances: also give `instances`.
            size_divisibility: pictures are padded to a multiple of it; below 1, the backbone's.
            augmentation: in evaluation, averages the maps of several scales; None: one look.

        Raises:
            ValueError: a thing id that is not among the head's classes, or a merging constant out
                of range.
        """
        super().__init__()
        _check_merging(stuff_area, center_threshold, nms_kernel, top_k)
        self.thing_ids = sorted(thing_ids)
        classes = getattr(sem_seg_head, "num_classes", None)
        if classes is not None and self.thing_ids and self.thing_ids[-1] >= classes:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.NUM_CLASSES: expected more than the largest thing id "
                f"{self.thing_ids[-1]} of the training data, got {classes}"
            )
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.ins_embed_head = ins_embed_head
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)
        self.label_divisor = label_divisor
        self.stuff_area = stuff_area
        self.center_threshold = center_threshold
        self.nms_kernel = nms_kernel
        self.top_k = top_k
        self.predict_instances = predict_instances
        self.size_divisibility = (
            size_divisibility if size_divisibility > 0 else backbone.size_divisibility
        )
        self.augmentation = augmentation

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Builds the parts; registers `DATASETS.CUSTOM` for the classes of `DATASETS.TRAIN`.

        Raises:
            ValueError: `DATASETS.TRAIN` names no panoptic dataset that is registered,
                `NUM_CLASSES` is too small for it, or `TEST.AUG.SCALES` holds no factors.
        """
        register_custom(cfg, need_pictures=False)
        classes = _training_classes(cfg)
        backbone = build_backbone(cfg)
        node = cfg.MODEL.PANOPTIC_DEEPLAB
        test = cfg.TEST.AUG
        return {
            "backbone": backbone,
            "sem_seg_head": build_sem_seg_head(cfg, backbone.output_shape()),
            "ins_embed_head": build_ins_embed_branch(cfg, backbone.output_shape()),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "thing_ids": classes.thing_ids,
            "label_divisor": classes.label_divisor,
            "stuff_area": node.STUFF_AREA,
            "center_threshold": node.CENTER_THRESHOLD,
            "nms_kernel": node.NMS_KERNEL,
            "top_k": node.TOP_K_INSTANCE,
            "predict_instances": node.PREDICT_INSTANCES,
            "size_divisibility": node.SIZE_DIVISIBILITY,
            "augmentation": (
                MultiScaleFlip(scales=test.SCALES, flip=test.FLIP) if test.ENABLED else None
            ),
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """Losses in training, predictions otherwise.

        Args:
            batched_inputs: per picture a dict with `image`, (3, H, W), 0 to 255. In training also
                the targets that `panoptic.PanopticTargets` makes. For predictions `height` and
                `width`, the size to answer in; the image's own where they are missing.

        Returns:
            In training the losses by name. Otherwise per picture a dict with

            - `sem_seg`: (classes, height, width) logits; with `augmentation` logarithms of the mean
              probabilities, whose softmax and argmax are as those of logits;
            - `panoptic_seg`: (height, width) int64 segment ids from 1, 0 for void, and the list of
              segments: id, category_id, isthing, area, and for things score and instance_id;
            - `instances`: pred_classes, scores, pred_masks, pred_boxes of the things.

            Classes and categories are contiguous ids.
        """
        if self.training:
            images = self._images(batched_inputs)
            return self._losses(self.backbone(images.tensor), batched_inputs)
        return [self._predict(maps) for maps in self._all_maps(batched_inputs)]

    @torch.no_grad()
    def maps(self, batched_inputs: list[dict]) -> list[dict]:
        """Predictions with the maps they come from, for pictures of what the network sees.

        Args:
            batched_inputs: as for `forward` in evaluation.

        Returns:
            Per picture what `forward` gives, and `center` (1, height, width) and `offset`
            (2, height, width), dy and dx in pixels of that size.
        """
        result = []
        for maps in self._all_maps(batched_inputs):
            (height, width), extent = maps.size, maps.extent
            center = _resize(maps.center, extent, maps.size)
            offset = resize_offsets(maps.offset[None], extent)[0, :, :height, :width]
            result.append(self._predict(maps) | {"center": center, "offset": offset})
        return result

    def _images(self, batched_inputs: list[dict]) -> ImageList:
        images = [x["image"].to(self.device) for x in batched_inputs]
        images = [(x - self.pixel_mean) / self.pixel_std for x in images]
        return ImageList.from_tensors(images, self.size_divisibility)

    def _losses(self, features: dict[str, Tensor], batched_inputs: list[dict]) -> dict[str, Tensor]:
        def batch(key: str, padding: float = 0) -> Tensor:
            tensors = [x[key].to(self.device) for x in batched_inputs]
            return ImageList.from_tensors(tensors, self.size_divisibility, padding).tensor

        _, losses = self.sem_seg_head(
            features, batch("sem_seg", self.sem_seg_head.ignore_value), batch("sem_seg_weights")
        )
        _, _, center_losses, offset_losses = self.ins_embed_head(
            features,
            batch("center").unsqueeze(1),  # (N, 1, H, W)
            batch("center_weights"),
            batch("offset"),
            batch("offset_weights"),
        )
        return losses | center_losses | offset_losses

    def _all_maps(self, batched_inputs: list[dict]) -> Iterable[CoarseMaps]:
        """The maps of each picture: the network's, or the mean of several looks at it."""
        if self.augmentation is None:
            return self._coarse_maps(batched_inputs)
        on_device = ({**x, "image": x["image"].to(self.device)} for x in batched_inputs)
        return (self.augmentation(self._coarse_maps, inputs) for inputs in on_device)

    def _coarse_maps(self, batched_inputs: list[dict]) -> list[CoarseMaps]:
        """Per picture the branches' maps as they come, with offsets in pixels of the answer."""
        images = self._images(batched_inputs)
        features = self.backbone(images.tensor)
        sem_seg = self.sem_seg_head.layers(features).float()
        center, offset = self.ins_embed_head.layers(features)
        center = center.float()
        offset = offset.float() * self.ins_embed_head.common_stride
        padded = images.tensor.shape[-2:]
        result = []
        for i, (inputs, image_size) in enumerate(
            zip(batched_inputs, images.image_sizes, strict=True)
        ):
            size = (inputs.get("height", image_size[0]), inputs.get("width", image_size[1]))
            ratio = [out / own for out, own in zip(size, image_size, strict=True)]
            covered = (padded[0] * ratio[0], padded[1] * ratio[1])
            scaled = offset[i] * offset.new_tensor(ratio).view(2, 1, 1)
            result.append(CoarseMaps(sem_seg[i], center[i], scaled, size, covered))
        return result

    def _predict(self, maps: CoarseMaps) -> dict:
        size, extent = maps.size, maps.extent
        logits = _resize(maps.sem_seg, extent, size)  # (C, H, W)
        semantic = logits.argmax(dim=0)  # (H, W)
        found = panoptic_segmentation(
            semantic,
            _resize(maps.center, extent, size),
            maps.offset,
            thing_ids=self.thing_ids,
            label_divisor=self.label_divisor,
            stuff_area=self.stuff_area,
            void_label=_VOID,
            threshold=self.center_threshold,
            nms_kernel=self.nms_kernel,
            top_k=self.top_k,
            grouping="cells",
            cell_weight=maps.sem_seg.softmax(dim=0),
            cell_extent=extent,
        )
        segments = find_segments(found, logits, label_divisor=self.label_divisor, void_label=_VOID)
        result = {"sem_seg": logits, "panoptic_seg": (segments.ids, segments.infos)}
        if self.predict_instances:
            result["instances"] = _instances(segments)
        return result


def _check_merging(stuff_area: int, threshold: float, nms_kernel: int, top_k: int) -> None:
    """Finds before a training what `panoptic_segmentation` would refuse after it."""
    node = "MODEL.PANOPTIC_DEEPLAB"
    if nms_kernel < 1 or nms_kernel % 2 == 0:
        raise ValueError(f"{node}.NMS_KERNEL: expected an odd number, got {nms_kernel}")
    if top_k < 1:
        raise ValueError(f"{node}.TOP_K_INSTANCE: expected at least 1, got {top_k}")
    if not 0 <= threshold < 1:
        raise ValueError(f"{node}.CENTER_THRESHOLD: expected 0 to 1, got {threshold}")
    if stuff_area < 0:
        raise ValueError(f"{node}.STUFF_AREA: expected at least 0, got {stuff_area}")


def _training_classes(cfg: CfgNode) -> SegmentClasses:
    """Those of the first training dataset, which the model has."""
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN: expected the dataset whose classes the model has, got ()")
    name = cfg.DATASETS.TRAIN[0]
    try:
        classes = segment_classes(name)
    except ValueError as error:
        raise ValueError(f"DATASETS.TRAIN: {error}") from error
    if len(classes.names) > cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES: expected {len(classes.names)}, the number of classes "
            f"of {name!r}, got {cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES}"
        )
    return classes


def _resize(maps: Tensor, extent: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """(C, h, w) cells that cover the extent, to (C, *size), its upper left part."""
    full = F.interpolate(maps[None], size=extent, mode="bilinear", align_corners=False)[0]
    return full[:, : size[0], : size[1]]


def _instances(segments: Segments) -> Instances:
    """The thing segments in Detectron2's form."""
    things = [s for s in segments.infos if s["isthing"]]
    ids = segments.ids
    instances = Instances(tuple(ids.shape))
    instances.pred_classes = torch.tensor(
        [s["category_id"] for s in things], dtype=torch.long, device=ids.device
    )
    instances.scores = torch.tensor([s["score"] for s in things], device=ids.device)
    numbers = torch.tensor([s["id"] for s in things], dtype=ids.dtype, device=ids.device)
    instances.pred_masks = ids[None] == numbers[:, None, None]  # (n, H, W)
    instances.pred_boxes = BitMasks(instances.pred_masks).get_bounding_boxes()
    return instances

"""Cityscapes' own instance AP and mIoU, by the official scripts (cityscapesscripts).

The scripts compare folders. Here each picture is written to a temporary folder when it comes, given
to the scripts' function for one picture, and deleted; what that function counts is kept, and their
averages are taken at the end.
"""

import abc
import contextlib
import io
import logging
import os
import tempfile
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from PIL import Image

from axial_d2.data.classes import record_key
from axial_d2.evaluation.prediction_files import UNLABELED
from axial_d2.evaluation.semantic import predicted_labels
from axial_d2.evaluation.tables import score_table
from axial_d2.evaluation.truth import PanopticTruth, TruthPicture

logger = logging.getLogger(__name__)

_IMAGE = "_leftImg8bit"


def truth_files(record: Mapping[str, Any], gt_dir: str) -> dict[str, str]:
    """The files that the official scripts compare with.

    Args:
        record: dataset dict of one of Detectron2's Cityscapes datasets.
        gt_dir: its metadata's gt_dir: gtFine/val, say.

    Returns:
        Paths by "labelIds" and "instanceIds".

    Raises:
        ValueError: the picture's name is not as Cityscapes', or a file is not there.
    """
    name = os.path.splitext(os.path.basename(record["file_name"]))[0]
    if not name.endswith(_IMAGE) or name.count("_") != 3:
        raise ValueError(
            f"{record['file_name']}: expected a name as Cityscapes', CITY_NNNNNN_NNNNNN{_IMAGE}.png"
        )
    name = name.removesuffix(_IMAGE)
    paths = {
        kind: os.path.join(gt_dir, name.split("_")[0], f"{name}_gtFine_{kind}.png")
        for kind in ("labelIds", "instanceIds")
    }
    for path in paths.values():
        if not os.path.isfile(path):
            raise ValueError(f"Cityscapes' evaluation needs the file {path}, which is not there")
    return paths


def write_instances(folder: str, stem: str, instances: Any, class_ids: Sequence[int]) -> str:
    """Writes instances as Cityscapes' server and scripts take them.

    Args:
        folder: where STEM.txt and its masks go.
        stem: of the files: the picture's CITY_NNNNNN_NNNNNN..., as the scripts look for it.
        instances: Detectron2's, with pred_masks (n, H, W), pred_classes and scores; None: none.
        class_ids: Cityscapes' id by contiguous id.

    Returns:
        The text file: per line a mask's path, Cityscapes' class id and the score.
    """
    lines = []
    if instances is not None:
        found = zip(
            instances.pred_classes.tolist(),
            instances.scores.tolist(),
            instances.pred_masks,
            strict=True,
        )
        for number, (category, score, mask) in enumerate(found):
            name = f"{stem}_{number}.png"
            pixels = (mask > 0.5).cpu().numpy().astype(np.uint8) * 255
            Image.fromarray(pixels).save(os.path.join(folder, name))
            lines.append(f"{name} {class_ids[category]} {score}\n")
    path = os.path.join(folder, f"{stem}.txt")
    with open(path, "w") as file:
        file.writelines(lines)
    return path


def label_ids(labels: np.ndarray, class_ids: Sequence[int]) -> np.ndarray:
    """Cityscapes' ids of contiguous classes.

    Args:
        labels: (H, W) integers; others than 0..classes-1 are none.
        class_ids: Cityscapes' id by contiguous id.

    Returns:
        (H, W) uint8.
    """
    table = np.array([*class_ids, UNLABELED], dtype=np.uint8)
    none = (labels < 0) | (labels >= len(class_ids))
    return table[np.where(none, len(class_ids), labels)]


@contextlib.contextmanager
def _official(what: str) -> Iterator[None]:
    """The scripts print, and leave the process with an error; here it is raised."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            yield
    except SystemExit as error:
        lines = said.getvalue().strip().splitlines() or ["no reason given"]
        raise ValueError(f"cityscapesscripts cannot evaluate {what}: {lines[-1]}") from error


class _CityscapesEvaluator(DatasetEvaluator, abc.ABC):
    """What both evaluators have in common: a temporary folder and what is kept of each picture."""

    def __init__(self, truth: PanopticTruth):
        """
        Args:
            truth: of one of Detectron2's Cityscapes datasets.
        """
        self._truth = truth
        self.reset()

    def reset(self) -> None:
        # By picture, since a sampler may deal one out twice to fill up.
        self._kept: dict[Hashable, Any] = {}

    def process(self, inputs: Sequence[Mapping], outputs: Sequence[Mapping]) -> None:
        """Has the scripts compare the pictures of a batch.

        Args:
            inputs: per picture its dataset dict.
            outputs: as the other evaluators take them.

        Raises:
            ValueError: a file of the truth is not there, or the scripts refuse the picture.
        """
        for given, output in zip(inputs, outputs, strict=True):
            files = truth_files(given, self._truth.metadata.gt_dir)
            picture = self._truth.picture(record_key(given))
            with (
                tempfile.TemporaryDirectory(prefix="axial_d2_cityscapes_") as folder,
                _official(given["file_name"]),
            ):
                self._kept[record_key(given)] = self._compare(output, picture, files, folder)

    @abc.abstractmethod
    def _compare(
        self, output: Mapping, picture: TruthPicture, files: Mapping[str, str], folder: str
    ) -> Any:
        """What the scripts count in one picture."""

    def _gathered(self) -> dict[Hashable, Any] | None:
        """What all processes kept, in the main one."""
        comm.synchronize()
        gathered = comm.gather(self._kept)
        if not comm.is_main_process():
            return None
        return {key: value for part in gathered for key, value in part.items()}


class CityscapesInstanceEvaluator(_CityscapesEvaluator):
    """Cityscapes' AP of `instances`: groups and void forgive, small true instances are left out."""

    def _compare(
        self, output: Mapping, picture: TruthPicture, files: Mapping[str, str], folder: str
    ) -> Any:
        from cityscapesscripts.evaluation.instances2dict import instances2dict

        instances = output.get("instances")
        if instances is not None and len(instances):
            picture.check_size(instances.pred_masks.shape[1:], "pred_masks")
        script, args = self._script(folder)
        text = write_instances(folder, "picture", instances, self._truth.classes.dataset_ids)
        truth_file = files["instanceIds"]
        (true,) = instances2dict([truth_file]).values()
        matches = script.matchGtWithPreds(
            [text], [truth_file], {os.path.abspath(truth_file): true}, args
        )
        return next(iter(matches.values()))

    def _script(self, folder: str = "") -> tuple[ModuleType, Any]:
        """The script and its settings; those that it reads from the environment are not used."""
        from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as script

        args = type(script.args)()
        vars(args).update(vars(script.args), predictionPath=os.path.abspath(folder), quiet=True)
        script.setInstanceLabels(args)
        return script, args

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Sums up over all processes.

        Returns:
            In the main process {"segm": scores in percent}: AP, AP50, AP-<class>, AP50-<class>, nan
            where the truth has no such instance; elsewhere None.
        """
        kept = self._gathered()
        if kept is None:
            return None
        script, args = self._script()
        # The means of classes that do not occur warn.
        with _official("the matches"), np.errstate(invalid="ignore"), _no_warnings():
            averages = script.computeAverages(script.evaluateMatches(kept, args), args)
        scores = {
            "AP": 100 * float(averages["allAp"]),
            "AP50": 100 * float(averages["allAp50%"]),
        }
        rows = [
            (name, 100 * float(each["ap"]), 100 * float(each["ap50%"]))
            for name, each in averages["classes"].items()
        ]
        logger.info(
            "Instances of %d pictures (Cityscapes' AP), in percent:\n%s\n\n%s",
            len(kept),
            score_table(list(scores), [list(scores.values())]),
            score_table(["class", "AP", "AP50"], [row for row in rows if not np.isnan(row[1])]),
        )
        for column, key in enumerate(("AP", "AP50"), start=1):
            scores.update({f"{key}-{row[0]}": row[column] for row in rows})
        return {"segm": scores}


class CityscapesSemanticEvaluator(_CityscapesEvaluator):
    """Cityscapes' IoU of `sem_seg`: of classes, of groups of classes, and weighed by instance."""

    def _compare(
        self, output: Mapping, picture: TruthPicture, files: Mapping[str, str], folder: str
    ) -> Any:
        script, args = self._script()
        classes = len(self._truth.class_names)
        labels = predicted_labels(output.get("sem_seg"), classes, picture)
        path = os.path.join(folder, "picture.png")
        Image.fromarray(label_ids(labels, self._truth.classes.dataset_ids)).save(path)
        confusion, instances = script.generateMatrix(args), script.generateInstanceStats(args)
        script.evaluatePair(path, files["labelIds"], confusion, instances, {}, args)
        # Most of the matrix is 0.
        rows, columns = np.nonzero(confusion)
        return rows, columns, confusion[rows, columns], instances

    def _script(self) -> tuple[ModuleType, Any]:
        from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as script

        args = type(script.args)()
        vars(args).update(vars(script.args), quiet=True, evalInstLevelScore=True)
        return script, args

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Sums up over all processes.

        Returns:
            In the main process {"sem_seg": scores in percent}: mIoU (the scripts' IoU of classes),
            iIoU, IoU_sup, iIoU_sup and IoU-<class>; elsewhere None.
        """
        kept = self._gathered()
        if kept is None:
            return None
        script, args = self._script()
        confusion, instances = script.generateMatrix(args), script.generateInstanceStats(args)
        for rows, columns, pixels, own in kept.values():
            np.add.at(confusion, (rows, columns), pixels)
            _add(instances, own)

        def of_labels(score: Callable[..., float], *more: Any) -> dict[str, float]:
            return {
                script.id2label[label].name: score(label, confusion, *more, args)
                for label in args.evalLabels
            }

        def of_groups(score: Callable[..., float], *more: Any) -> dict[str, float]:
            return {group: score(group, confusion, *more, args) for group in script.category2labels}

        per_class = of_labels(script.getIouScoreForLabel)
        means = {
            "mIoU": per_class,
            "iIoU": of_labels(script.getInstanceIouScoreForLabel, instances),
            "IoU_sup": of_groups(script.getIouScoreForCategory),
            "iIoU_sup": of_groups(script.getInstanceIouScoreForCategory, instances),
        }
        scores = {
            key: 100 * float(script.getScoreAverage(values, args)) for key, values in means.items()
        }
        rows = [(name, 100 * float(per_class[name])) for name in self._truth.class_names]
        logger.info(
            "Semantic segmentation of %d pictures (Cityscapes' IoU), in percent:\n%s\n\n%s",
            len(kept),
            score_table(list(scores), [list(scores.values())]),
            score_table(["class", "IoU"], [row for row in rows if not np.isnan(row[1])]),
        )
        scores.update({f"IoU-{name}": value for name, value in rows})
        return {"sem_seg": scores}


def _add(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Adds the numbers of nested dicts of one form; lists stay."""
    for key, value in values.items():
        if isinstance(value, dict):
            _add(into[key], value)
        elif isinstance(value, int | float):
            into[key] += value


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield

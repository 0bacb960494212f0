"""ImageNet: the validation pictures, which come loose, into a folder for each class.

Expected below the root, as downloaded (https://image-net.org, after registration):

    imagenet/train/n01440764/*.JPEG ...        (ILSVRC2012_img_train.tar, its tars unpacked)
    imagenet/val/ILSVRC2012_val_*.JPEG         (ILSVRC2012_img_val.tar)
    imagenet/ILSVRC2012_devkit_t12.tar.gz
"""

import io
import os
import re
import tarfile

from .work import Outcome, run

_DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
_TABLE, _TRUTH = "meta.mat", "ILSVRC2012_validation_ground_truth.txt"
_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")


def prepare(root: str, *, workers: int) -> list[Outcome]:
    """Moves each loose validation picture into the folder of its class.

    Args:
        root: the folder that holds ``imagenet``.
        workers: threads.

    Returns:
        What became of it.

    Raises:
        ValueError: the downloaded files are not there, or the devkit is none.
    """
    base = os.path.join(root, "imagenet")
    val, devkit = os.path.join(base, "val"), os.path.join(base, _DEVKIT)
    if not os.path.isdir(val):
        raise ValueError(f"expected ImageNet's validation pictures in {val}, came nothing")
    loose = sorted(name for name in os.listdir(val) if _NAME.fullmatch(name))
    there = sum(len(files) for folder, _, files in os.walk(val) if folder != val)
    if not loose:
        if not there:
            raise ValueError(f"expected ILSVRC2012_val_*.JPEG in {val}, came none")
        return [Outcome("val: pictures in class folders", 0, there, ())]
    if not os.path.isfile(devkit):
        raise ValueError(f"the classes of the validation pictures are in {devkit}, not there")
    wnids = _classes_of_validation(devkit)

    def move(name: str) -> tuple[None, int, int]:
        number = int(_NAME.fullmatch(name)[1])  # type: ignore[index]
        if not 1 <= number <= len(wnids):
            raise ValueError(f"{name}: expected a number up to {len(wnids)}")
        folder = os.path.join(val, wnids[number - 1])
        os.makedirs(folder, exist_ok=True)
        os.replace(os.path.join(val, name), os.path.join(folder, name))
        return None, 1, 0

    outcome, _ = run("val: pictures in class folders", loose, move, workers=workers)
    return [outcome._replace(kept=there)]


def _classes_of_validation(devkit: str) -> list[str]:
    """The class folder's name of each validation picture, from the devkit's tables."""
    try:
        import scipy.io
    except ImportError as error:
        raise ValueError(f"scipy, which reads the devkit's table, is missing: {error}") from error

    try:
        with tarfile.open(devkit) as archive:
            names = {os.path.basename(name): name for name in archive.getnames()}
            table, truth = (_content(archive, names[name]) for name in (_TABLE, _TRUTH))
        synsets = scipy.io.loadmat(io.BytesIO(table), squeeze_me=True)["synsets"]
        # Groups of classes come after the classes, and have children.
        wnids = {
            int(entry["ILSVRC2012_ID"]): str(entry["WNID"])
            for entry in synsets
            if int(entry["num_children"]) == 0
        }
        return [wnids[int(label)] for label in truth.split()]
    except (OSError, KeyError, ValueError, tarfile.TarError) as error:
        raise ValueError(f"{devkit} is not ImageNet's devkit: {error!r}") from error


def _content(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise ValueError(f"{name} is no file")
    return file.read()

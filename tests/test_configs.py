"""Every shipped config trains a step and predicts, and no key of it stands there unread."""

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.utils.events import EventStorage
from PIL import Image

from axial_d2.config import add_axial_config
from axial_d2.data import register_custom
from axial_d2.engine import Trainer
from axial_d2.engine.config_errors import merge_file

sys.path.insert(0, str(Path(__file__).parent / "engine"))
from tiny_training import write_dataset  # noqa: E402

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))
BASES = [path for path in FILES if path.name.startswith("Base")]
LEAVES = [path for path in FILES if path not in BASES]
# Odd, and not square.
SIZE = (65, 97)


def label(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


@contextmanager
def keys_read(cfg: CfgNode) -> Iterator[set[str]]:
    """The dotted names of the keys that are read from `cfg` or from a copy of it."""

    def name(node: CfgNode, prefix: str) -> None:
        # Copies of a node copy this too.
        node.__dict__["_dotted"] = prefix
        for key, value in node.items():
            if isinstance(value, CfgNode):
                name(value, f"{prefix}{key}.")

    name(cfg, "")
    read: set[str] = set()
    kind = next(c for c in CfgNode.__mro__ if "__getattr__" in vars(c))

    def recorded(read_value: Callable[..., Any]) -> Callable[..., Any]:
        def look(node: CfgNode, key: str, *default: Any) -> Any:
            value = read_value(node, key, *default)
            if "_dotted" in node.__dict__ and not isinstance(value, CfgNode):
                read.add(node.__dict__["_dotted"] + key)
            return value

        return look

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "__getattr__", recorded(kind.__getattr__))
        patch.setattr(kind, "get", recorded(dict.get), raising=False)
        yield read


def keys_in(path: Path) -> set[str]:
    """The dotted names of the keys that a file sets itself, without those of its bases."""

    def walk(node: dict, prefix: str) -> Iterator[str]:
        for key, value in node.items():
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")
            elif key not in ("_BASE_", "VERSION"):  # Read while merging.
                yield prefix + key

    return set(walk(yaml.safe_load(path.read_text()), ""))


def bases_of(path: Path) -> Iterator[Path]:
    """The file itself and all that its _BASE_ leads to."""
    yield path
    names = yaml.safe_load(path.read_text()).get("_BASE_", [])
    for name in [names] if isinstance(names, str) else names:
        yield from bases_of((path.parent / name).resolve())


@functools.cache
def trained_keys(path: Path, data: Path) -> frozenset[str]:
    """Trains a step by the config and evaluates, on small data; returns the keys that were read."""
    cfg = get_cfg()
    add_axial_config(cfg)
    merge_file(cfg, str(path))
    classifies = cfg.MODEL.META_ARCHITECTURE == "AxialClassifier"
    cfg.merge_from_list([word for pair in small(classifies, data).items() for word in pair])
    # Detectron2's own meta-architecture has none.
    cfg.TEST.AUG.ENABLED = cfg.MODEL.META_ARCHITECTURE == "AxialDeepLab"
    torch.manual_seed(0)
    with keys_read(cfg) as read:
        register_custom(cfg)
        trainer = Trainer(cfg)
        with EventStorage(0) as storage:
            trainer.run_step()
            # What the writers would print: the loss is a number.
            assert storage.latest()["total_loss"][0] > 0
        results = Trainer.test(cfg, trainer.model)
    wanted = {"classification"} if classifies else {"panoptic_seg", "segm", "sem_seg"}
    assert wanted <= set(results)
    return frozenset(read)


def small(classifies: bool, data: Path) -> dict[str, object]:
    """What makes a config small: the tests' data in its own's place, one step of two pictures."""
    name = "configs_test_folders" if classifies else "configs_test_panoptic"
    changed = {
        "MODEL.DEVICE": "cpu",
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 3,
        "MODEL.AXIAL_CLASSIFIER.NUM_CLASSES": 3,
        "DATASETS.TRAIN": (name,),
        "DATASETS.TEST": (name,),
        "DATASETS.CUSTOM": [],
        "DATASETS.IMAGE_FOLDERS": [],
        "DATALOADER.NUM_WORKERS": 0,
        "INPUT.CROP_SIZE": SIZE,
        "INPUT.MIN_SIZE_TRAIN": (max(SIZE),),
        "INPUT.MAX_SIZE_TRAIN": max(SIZE),
        "INPUT.MIN_SIZE_TEST": max(SIZE),
        "INPUT.MAX_SIZE_TEST": max(SIZE),
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.ACCUMULATION_STEPS": 1,
        "TEST.AUG.SCALES": (0.5,),
        "OUTPUT_DIR": str(data / "output"),
    }
    if classifies:
        changed["DATASETS.IMAGE_FOLDERS"] = [{"name": name, "root": str(data / "folders")}]
    else:
        folders = {key: str(data / "panoptic" / key) for key in ("images", "panoptic")}
        json = str(data / "panoptic" / "panoptic.json")
        changed["DATASETS.CUSTOM"] = [{"name": name, **folders, "json": json}]
    return changed


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two panoptic pictures, and three folders of one picture each."""
    root = tmp_path_factory.mktemp("configs")
    write_dataset(root / "panoptic", pictures=2)
    for number in range(3):
        folder = root / "folders" / f"class{number}"
        folder.mkdir(parents=True)
        Image.new("RGB", SIZE[::-1], (80 * number, 100, 50)).save(folder / "picture.png")
    return root


@pytest.mark.parametrize("leaf", LEAVES, ids=label)
def test_trains_and_predicts_and_reads_every_key_of_its_own(leaf: Path, data: Path) -> None:
    unread = keys_in(leaf) - trained_keys(leaf, data)
    assert not unread, f"{label(leaf)} sets keys that nothing reads"


@pytest.mark.parametrize("base", BASES, ids=label)
def test_every_key_of_a_base_is_read_by_one_of_its_leaves(base: Path, data: Path) -> None:
    leaves = [leaf for leaf in LEAVES if base in bases_of(leaf)]
    unread = keys_in(base)
    for leaf in leaves:
        if unread:
            unread = unread - trained_keys(leaf, data)
    assert not unread, f"{label(base)} sets keys that nothing reads"


@pytest.mark.parametrize("leaf", LEAVES, ids=label)
def test_leaves_are_short(leaf: Path) -> None:
    lines = [line for line in leaf.read_text().splitlines() if not line.startswith("#")]
    assert len(lines) <= 15
    assert "_BASE_" in yaml.safe_load(leaf.read_text())


def test_a_key_that_nothing_reads_is_found(data: Path, tmp_path: Path) -> None:
    """The test of the tests above."""
    leaf = tmp_path / "leaf.yaml"
    leaf.write_text(
        f"_BASE_: {CONFIGS}/quickstart/synthetic.yaml\nMODEL: {{RPN: {{NMS_THRESH: 0.5}}}}\n"
    )
    assert keys_in(leaf) - trained_keys(leaf, data) == {"MODEL.RPN.NMS_THRESH"}

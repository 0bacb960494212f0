"""The mapper: from dataset dicts to tensors."""

from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_train_loader
from detectron2.data import transforms as T
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.projects.panoptic_deeplab import PanopticDeeplabDatasetMapper
from fvcore.transforms.transform import HFlipTransform
from PIL import Image
from tiny_panoptic import HEIGHT, WIDTH, ids_to_rgb, truth, write_dataset

import axial_d2  # noqa: F401
from axial_d2.config import add_axial_config
from axial_d2.data import AxialDeepLabDatasetMapper, register_coco_panoptic

SAMPLE = Path(__file__).parents[2] / "../shared/data/coco_panoptic_sample"
TARGETS = [
    "sem_seg", "center", "center_points", "offset",
    "sem_seg_weights", "center_weights", "offset_weights",
]  # fmt: skip
_numbers = count()


@pytest.fixture
def name(tmp_path):
    """The tiny dataset, registered."""
    name = f"mapper_test_{next(_numbers)}"
    register_coco_panoptic(name, **write_dataset(tmp_path))
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def _config(name, **inputs):
    """A config without any augmentation but those asked for."""
    cfg = get_cfg()
    add_axial_config(cfg)
    cfg.DATASETS.TRAIN = (name,)
    cfg.INPUT.MIN_SIZE_TRAIN = (0,)
    cfg.INPUT.RANDOM_FLIP = "none"
    for key, value in inputs.items():
        node, leaf = (cfg.INPUT.CROP, key[5:]) if key.startswith("CROP_") else (cfg.INPUT, key)
        node, leaf = (cfg.INPUT, key) if key == "CROP_SIZE" else (node, leaf)
        node[leaf] = value
    return cfg


def _assert_same(ours, theirs):
    assert theirs.keys() <= ours.keys()
    for key in TARGETS:
        if key == "center_points":
            assert np.allclose(sorted(map(tuple, ours[key])), sorted(map(tuple, theirs[key])))
        else:
            assert ours[key].dtype == theirs[key].dtype, key
            torch.testing.assert_close(ours[key], theirs[key], msg=lambda m, key=key: f"{key}: {m}")
    assert (ours["height"], ours["width"]) == (theirs["height"], theirs["width"])


@pytest.mark.parametrize("small", [{}, {"SMALL_INSTANCE_AREA": 0, "IGNORE_STUFF_IN_OFFSET": False}])
def test_same_as_detectron2_without_augmentation(name, small):
    cfg = _config(name, **small)
    ours = AxialDeepLabDatasetMapper(cfg)
    arguments = PanopticDeeplabDatasetMapper.from_config(cfg) | {"augmentations": []}
    theirs = PanopticDeeplabDatasetMapper(**arguments)
    for entry in DatasetCatalog.get(name):
        a, b = ours(entry), theirs(entry)
        _assert_same(a, b)
        assert torch.equal(a["image"], b["image"])
        assert a["image_id"] == entry["image_id"] and a.keys() == b.keys()


# Sizes where no pixel's centre falls right between two of the source: Pillow rounds those as it
# happens.
@pytest.mark.parametrize("sizes", [((48,), 1000), ((32,), 1000), ((16,), 1000), ((48,), 44)])
def test_same_as_detectron2_with_its_resize(name, sizes):
    cfg = _config(name, MIN_SIZE_TRAIN=sizes[0], MAX_SIZE_TRAIN=sizes[1])
    arguments = PanopticDeeplabDatasetMapper.from_config(cfg)
    arguments["augmentations"] = arguments["augmentations"][:1]  # without its flip
    theirs = PanopticDeeplabDatasetMapper(**arguments)
    entry = DatasetCatalog.get(name)[1]
    a, b = AxialDeepLabDatasetMapper(cfg)(entry), theirs(entry)
    _assert_same(a, b)
    assert torch.equal(a["image"], b["image"])


def test_keys_and_types(name):
    entry = DatasetCatalog.get(name)[0]
    before = repr(entry)
    result = AxialDeepLabDatasetMapper(_config(name))(entry)
    assert repr(entry) == before
    assert set(TARGETS) < result.keys() and "pan_seg_file_name" not in result
    assert result["image"].dtype == torch.uint8 and result["image"].shape == (3, HEIGHT, WIDTH)
    assert result["sem_seg"].dtype == torch.long and result["offset"].shape == (2, HEIGHT, WIDTH)
    # Contiguous ids in the json's order; the person is a crowd here, which has no centre loss.
    ids = torch.from_numpy(truth(0))
    for segment, category in {0: 255, 1: 0, 300: 1, 70000: 2, 9: 3}.items():
        assert (result["sem_seg"][ids == segment] == category).all()
    assert (result["center_weights"][0][ids == 9] == 0).all()


def test_image_channels_follow_the_format(name):
    entry = DatasetCatalog.get(name)[1]  # the png: pixels as written
    written = torch.from_numpy(np.array(Image.open(entry["file_name"]))).permute(2, 0, 1)
    for image_format, order in (("RGB", [0, 1, 2]), ("BGR", [2, 1, 0])):
        result = AxialDeepLabDatasetMapper(_config(name, FORMAT=image_format))(entry)
        assert torch.equal(result["image"], written[order])
    cfg = _config(name, FORMAT="L", CROP_SIZE=(30, 40), COLOR_JITTER=0.5)
    cfg.MODEL.PIXEL_MEAN = [120.0]
    assert AxialDeepLabDatasetMapper(cfg)(entry)["image"].shape == (1, 30, 40)


def test_flip_turns_the_sign_of_x_offsets(name):
    cfg = _config(name)
    entry = DatasetCatalog.get(name)[1]
    plain = AxialDeepLabDatasetMapper(cfg)(entry)
    arguments = AxialDeepLabDatasetMapper.from_config(cfg)
    arguments["augmentations"] = [HFlipTransform(WIDTH)]
    flipped = AxialDeepLabDatasetMapper(**arguments)(entry)
    assert torch.equal(flipped["image"], plain["image"].flip(-1))
    assert torch.equal(flipped["sem_seg"], plain["sem_seg"].flip(-1))
    torch.testing.assert_close(flipped["offset"][0], plain["offset"][0].flip(-1))
    torch.testing.assert_close(flipped["offset"][1], -plain["offset"][1].flip(-1))
    points = sorted((y, WIDTH - 1 - x) for y, x in plain["center_points"])
    assert np.allclose(sorted(map(tuple, flipped["center_points"])), points)


def test_offsets_lead_to_the_centres_after_every_augmentation(name, seed):
    """Each thing pixel plus its offset is the mean of its instance in the very crop it is in."""
    cfg = _config(
        name,
        SCALE_JITTER=(0.5, 2.0),
        CROP_SIZE=(29, 35),
        RANDOM_FLIP="horizontal",
        COLOR_JITTER=1.0,
    )
    mapper = AxialDeepLabDatasetMapper(cfg)
    entries = DatasetCatalog.get(name)
    for turn in range(20):
        result = mapper(entries[1 + turn % 2])
        assert result["image"].shape[1:] == result["sem_seg"].shape == (29, 35)
        for category in (1, 3):  # car and person, one of each
            rows, columns = np.nonzero(result["sem_seg"].numpy() == category)
            if len(rows):
                moved = result["offset"][:, rows, columns].numpy() + [rows, columns]
                assert np.abs(moved.T - [rows.mean(), columns.mean()]).max() < 1e-3


def test_padding_is_void_without_weight(name, seed):
    cfg = _config(name, CROP_SIZE=(51, 67), COLOR_JITTER=1.0)
    for _ in range(5):
        result = AxialDeepLabDatasetMapper(cfg)(DatasetCatalog.get(name)[1])
        mean = torch.tensor(cfg.MODEL.PIXEL_MEAN).round()[:, None, None]
        padding = (result["image"] == mean).all(0)
        assert padding.sum() >= 51 * 67 - HEIGHT * WIDTH
        assert (result["sem_seg"][padding] == 255).all()
        for key in ("center_weights", "offset_weights"):
            assert result[key].shape == (1, 51, 67) and (result[key][0][padding] == 0).all()
        assert (result["offset"][:, padding] == 0).all()
        assert (result["sem_seg"] != 255).sum() == (truth(1) != 0).sum()


@pytest.mark.parametrize("crop", [(13, 17), (24, 33), (1, 1), (101, 7), (25, 32)])
def test_crops_of_any_size(name, crop, seed):
    mapper = AxialDeepLabDatasetMapper(_config(name, CROP_SIZE=crop, SCALE_JITTER=(0.1, 3.0)))
    for _ in range(6):
        result = mapper(DatasetCatalog.get(name)[2])
        assert result["image"].shape == (3, *crop) and result["center"].shape == crop
        assert set(result["sem_seg"].unique().tolist()) <= {0, 1, 2, 3, 255}


def test_crops_are_of_the_resized_picture(name, seed):
    """24 rows to 50, the longer side's limit not reached; then the crop's 60 are filled up."""
    cfg = _config(name, MIN_SIZE_TRAIN=(50,), MAX_SIZE_TRAIN=90, CROP_SIZE=(60, 20))
    result = AxialDeepLabDatasetMapper(cfg)(DatasetCatalog.get(name)[2])
    assert result["image"].shape == (3, 60, 20)
    rows = (result["sem_seg"] != 255).any(dim=1).nonzero()
    assert rows.max() - rows.min() + 1 == HEIGHT * 50 // min(HEIGHT, WIDTH)


def test_seeds(name):
    cfg = _config(
        name,
        SCALE_JITTER=(0.5, 2.0),
        CROP_SIZE=(40, 40),
        RANDOM_FLIP="horizontal",
        COLOR_JITTER=0.7,
    )
    mapper, entry = AxialDeepLabDatasetMapper(cfg), DatasetCatalog.get(name)[0]
    results = []
    for number in (5, 5, 6):
        np.random.seed(number)
        results.append(mapper(entry))
    for key in ("image", "sem_seg", "offset"):
        assert torch.equal(results[0][key], results[1][key])
        assert not torch.equal(results[0][key], results[2][key])


def test_detectron2s_crop_is_taken_where_ours_is_not_set(name, seed):
    cfg = _config(name, MIN_SIZE_TRAIN=(48,), MAX_SIZE_TRAIN=0, CROP_ENABLED=True)
    for kind, size, expected in (
        ("absolute", [20, 90], (20, 66)),  # not padded, as Detectron2 does
        ("relative", [0.5, 0.5], (24, 33)),
    ):
        cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = kind, size
        result = AxialDeepLabDatasetMapper(cfg)(DatasetCatalog.get(name)[1])
        assert result["image"].shape[1:] == result["sem_seg"].shape == expected


def test_inference(name):
    cfg = _config(name, MIN_SIZE_TEST=0)
    entry = DatasetCatalog.get(name)[0]
    result = AxialDeepLabDatasetMapper(cfg, is_train=False)(entry)
    assert result["image"].shape == (3, HEIGHT, WIDTH) and not set(TARGETS) & result.keys()
    assert [result[key] for key in ("image_id", "height", "width")] == [10, HEIGHT, WIDTH]
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 48, 60
    result = AxialDeepLabDatasetMapper(cfg, is_train=False)(entry)
    assert result["image"].shape == (3, 44, 60)
    assert (result["height"], result["width"]) == (HEIGHT, WIDTH)
    # A picture that belongs to no dataset, of a kind that Pillow opens in another mode.
    alone = Path(entry["file_name"]).parent / "alone.png"
    Image.fromarray(np.zeros((5, 9), np.uint8)).save(alone)
    cfg.INPUT.MIN_SIZE_TEST = cfg.INPUT.MAX_SIZE_TEST = 0
    result = AxialDeepLabDatasetMapper(cfg, is_train=False)({"file_name": str(alone)})
    assert result["image"].shape == (3, 5, 9) and (result["height"], result["width"]) == (5, 9)


def test_picture_without_segments(name):
    entry = DatasetCatalog.get(name)[1]
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(entry["pan_seg_file_name"])
    result = AxialDeepLabDatasetMapper(_config(name))(entry | {"segments_info": []})
    assert (result["sem_seg"] == 255).all() and len(result["center_points"]) == 0


@pytest.mark.parametrize("key", ["file_name", "pan_seg_file_name"])
def test_broken_files_are_named(name, key):
    mapper, entry = AxialDeepLabDatasetMapper(_config(name)), DatasetCatalog.get(name)[1]
    data = Path(entry[key]).read_bytes()
    for content, cause in (
        (data[: len(data) // 2], ""),
        (b"<html>", "cannot identify"),
        (None, "No"),
    ):
        Path(entry[key]).unlink()
        if content is not None:
            Path(entry[key]).write_bytes(content)
        with pytest.raises(ValueError, match=f"cannot read the picture {entry[key]}: .*{cause}"):
            mapper(entry)


def test_sizes_that_differ(name):
    mapper, entry = AxialDeepLabDatasetMapper(_config(name)), DatasetCatalog.get(name)[1]
    with pytest.raises(SizeMismatchError, match=r"001\.png"):
        mapper(entry | {"width": 99})
    Image.fromarray(ids_to_rgb(truth(1)[1:])).save(entry["pan_seg_file_name"])
    with pytest.raises(SizeMismatchError, match=r"panoptic/001\.png: expected 33x24, .* 33x23"):
        mapper(entry)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("SCALE_JITTER", (2.0, 0.5), r"INPUT.SCALE_JITTER: expected \(low, high\)"),
        ("SCALE_JITTER", (1.0,), "INPUT.SCALE_JITTER"),
        ("CROP_SIZE", (0, 64), r"INPUT.CROP_SIZE: expected \(height, width\)"),
        ("COLOR_JITTER", 2.0, "INPUT.COLOR_JITTER: expected 0 to 1, came 2.0"),
        (
            "RANDOM_FLIP",
            "both",
            "INPUT.RANDOM_FLIP: expected horizontal, vertical, none, came 'both'",
        ),
        ("FORMAT", "L", "MODEL.PIXEL_MEAN: expected 1 values with INPUT.FORMAT L"),
    ],
)
def test_config_values_out_of_range(name, key, value, message):
    with pytest.raises(ValueError, match=message):
        AxialDeepLabDatasetMapper(_config(name, **{key: value}))


def test_plain_arguments(name):
    with pytest.raises(ValueError, match="target_generator: expected a callable"):
        AxialDeepLabDatasetMapper(is_train=True, augmentations=[], image_format="RGB")
    mapper = AxialDeepLabDatasetMapper(
        is_train=False, augmentations=[T.Resize((12, 14))], image_format="RGB"
    )
    assert mapper(DatasetCatalog.get(name)[0])["image"].shape == (3, 12, 14)


def test_dataset_of_the_config_in_detectron2s_loader(tmp_path):
    paths = write_dataset(tmp_path)
    name = f"mapper_test_{next(_numbers)}"
    cfg = _config(name, CROP_SIZE=(32, 48), SCALE_JITTER=(0.8, 1.2))
    cfg.merge_from_list(["DATASETS.CUSTOM", repr([{"name": name, **paths}])])
    cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS = 2, 0
    mapper = AxialDeepLabDatasetMapper(cfg)  # registers the dataset
    try:
        batch = next(iter(build_detection_train_loader(cfg, mapper=mapper)))
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    assert len(batch) == 2
    assert torch.stack([item["image"] for item in batch]).shape == (2, 3, 32, 48)


@pytest.mark.skipif(not SAMPLE.exists(), reason=f"{SAMPLE.name} is not beside the repository")
def test_coco_pictures_give_detectron2s_targets():
    name = f"mapper_test_{next(_numbers)}"
    register_coco_panoptic(name, SAMPLE / "images", SAMPLE / "panoptic", SAMPLE / "panoptic.json")
    cfg = _config(name)
    arguments = PanopticDeeplabDatasetMapper.from_config(cfg) | {"augmentations": []}
    theirs = PanopticDeeplabDatasetMapper(**arguments)
    ours = AxialDeepLabDatasetMapper(cfg)
    for entry in DatasetCatalog.get(name):
        _assert_same(ours(entry), theirs(entry))

"""Targets: against Detectron2's generator, by hand, and back through merging."""

import numpy as np
import pytest
import torch

import axial_d2  # noqa: F401  (first: it applies the bridges to Detectron2)
from axial_d2.panoptic import PanopticTargets, panoptic_segmentation, panoptic_targets

THINGS = (1, 3, 4)


def random_scene(seed, size, segments=12, classes=6, dtype=np.int32):
    """Overlapping boxes and discs; crowds, void, unlisted ids, segments without a pixel."""
    rng = np.random.default_rng(seed)
    height, width = size
    ids = rng.choice(np.arange(1, 1 << 16), segments, replace=False)
    panoptic = np.zeros(size, dtype=dtype)
    y, x = np.mgrid[:height, :width]
    infos = []
    for n, identity in enumerate(ids.tolist()):
        if n % 5 == 4:
            panoptic[rng.integers(height), rng.integers(width)] = identity  # a single pixel
        elif n % 2:
            top, left = rng.integers(height), rng.integers(width)
            panoptic[top : top + height // 2, left : left + width // 3] = identity
        else:
            distance = np.hypot(y - rng.integers(height), x - rng.integers(width))
            panoptic[distance < rng.uniform(0.5, 0.6 + 0.4 * max(size))] = identity
        if n % 7 != 6:  # the seventh stays unlisted: void
            label, crowd = int(rng.integers(classes)), int(rng.random() < 0.2)
            infos.append({"id": identity, "category_id": label, "iscrowd": crowd})
    infos.append({"id": 1 << 20, "category_id": THINGS[0], "iscrowd": 0})  # without a pixel
    return panoptic, infos


def assert_same(ours, theirs):
    assert list(ours) == list(theirs)
    for key, expected in theirs.items():
        if key == "center_points":
            assert ours[key] == [list(point) for point in expected]
            continue
        assert ours[key].dtype == expected.dtype and ours[key].shape == expected.shape, key
        assert torch.equal(ours[key], expected), key


OPTIONS = [
    {},
    {"sigma": 1, "ignore_stuff_in_offset": True},
    {"sigma": 10, "small_instance_area": 60, "small_instance_weight": 3},
    {"sigma": 3, "ignore_crowd_in_semantic": True},
    {
        "sigma": 2,
        "ignore_stuff_in_offset": True,
        "small_instance_area": 10_000,
        "small_instance_weight": 2,
        "ignore_crowd_in_semantic": True,
    },
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("size", [(40, 60), (33, 17), (1, 30), (30, 1), (1, 1), (2, 2)])
def test_equals_detectron2(size, options):
    module = pytest.importorskip(
        "detectron2.projects.panoptic_deeplab.target_generator",
        reason="Detectron2 is not installed",
    )
    theirs = module.PanopticDeepLabTargetGenerator(255, set(THINGS), **options)
    ours = PanopticTargets(ignore_label=255, thing_ids=THINGS, **options)
    for seed in range(8):
        panoptic, infos = random_scene(seed, size)
        if seed % 2:
            panoptic = panoptic[:, ::-1]  # a flipped view
        if seed == 3:
            infos = []
        if seed == 5:
            infos.append({**infos[0], "category_id": THINGS[1]})  # the same id twice
        assert_same(ours(panoptic, infos), theirs(panoptic, infos))


def test_noise_and_a_cut_equal_detectron2():
    module = pytest.importorskip(
        "detectron2.projects.panoptic_deeplab.target_generator",
        reason="Detectron2 is not installed",
    )
    theirs = module.PanopticDeepLabTargetGenerator(255, set(THINGS))
    ours = PanopticTargets(ignore_label=255, thing_ids=THINGS)
    noise = np.random.default_rng(0).integers(0, 9, (30, 40))  # runs of a pixel or two
    infos = [{"id": i, "category_id": i % 6, "iscrowd": i == 7} for i in range(9)]  # id 0 too
    assert_same(ours(noise, infos), theirs(noise, infos))
    panoptic, infos = random_scene(1, (60, 60))
    cut = panoptic[13:42, 7:33]
    assert_same(ours(cut, infos), theirs(cut, infos))


def test_worked_example():
    # A 2x2 car (id 7) at rows 1-2, columns 0-1; a crowd of cars (8) of one pixel; void; sky (9).
    panoptic = np.array([[9, 9, 9, 9], [7, 7, 9, 8], [7, 7, 5, 9]])
    infos = [
        {"id": 9, "category_id": 0, "iscrowd": 0},
        {"id": 7, "category_id": 1, "iscrowd": 0},
        {"id": 8, "category_id": 1, "iscrowd": 1},
    ]
    targets = panoptic_targets(
        panoptic,
        infos,
        ignore_label=255,
        thing_ids=[1],
        sigma=1,
        ignore_stuff_in_offset=True,
        small_instance_area=5,
        small_instance_weight=2.5,
        ignore_crowd_in_semantic=True,
    )
    assert targets["sem_seg"].tolist() == [[0, 0, 0, 0], [1, 1, 0, 255], [1, 1, 255, 0]]
    assert targets["center_points"] == [[1.5, 0.5], [1.0, 3.0]]
    assert targets["offset"][0].tolist() == [[0] * 4, [0.5, 0.5, 0, 0], [-0.5, -0.5, 0, 0]]
    assert targets["offset"][1].tolist() == [[0] * 4, [0.5, -0.5, 0, 0], [0.5, -0.5, 0, 0]]
    # The centre (1.5, 0.5) rounds to (2, 0), halves to even.
    assert targets["center"][2, 0] == 1 and targets["center"][1, 3] == 1
    assert targets["center"][1, 0] == pytest.approx(np.exp(-0.5))
    small = [2.5, 2.5, 1, 2.5]
    assert targets["sem_seg_weights"].tolist() == [[1] * 4, small, [2.5, 2.5, 1, 1]]
    assert targets["center_weights"].tolist() == [[[1] * 4, [1, 1, 1, 0], [1, 1, 0, 1]]]
    assert targets["offset_weights"].tolist() == [[[0] * 4, [1, 1, 0, 0], [1, 1, 0, 0]]]


def test_crowd_settings():
    panoptic = np.array([[1, 1, 1, 0, 2, 2]])
    infos = [
        {"id": 1, "category_id": 1, "iscrowd": 1},
        {"id": 2, "category_id": 1, "iscrowd": 0},
    ]
    made = {
        crowd: PanopticTargets(ignore_label=255, thing_ids=[1], sigma=1, crowd=crowd)(
            panoptic, infos
        )
        for crowd in ("masked", "none", "instance")
    }
    assert made["masked"]["center_points"] == [[0, 1], [0, 4.5]]
    assert made["none"]["center_points"] == [[0, 4.5]]
    assert made["none"]["offset"][1].tolist() == [[0, 0, 0, 0, 0.5, -0.5]]
    assert made["none"]["center"][0, 1] < 0.02
    for crowd in ("masked", "none"):
        assert made[crowd]["center_weights"].tolist() == [[[0, 0, 0, 0, 1, 1]]]
    assert made["instance"]["center_weights"].tolist() == [[[1, 1, 1, 0, 1, 1]]]
    assert made["instance"]["offset_weights"].tolist() == [[[1, 1, 1, 0, 1, 1]]]
    assert torch.equal(made["instance"]["offset"], made["masked"]["offset"])


@pytest.mark.parametrize("size", [(0, 4), (4, 0), (0, 0)])
def test_no_pixel(size):
    targets = panoptic_targets(
        np.zeros(size, np.int32),
        [{"id": 1, "category_id": 1, "iscrowd": 0}],
        ignore_label=255,
        thing_ids=[1],
    )
    assert targets["sem_seg"].shape == size and targets["offset"].shape == (2, *size)
    assert targets["center_points"] == []


def test_all_void_and_labels_that_fit_no_byte():
    targets = panoptic_targets(np.full((3, 4), 9), [], ignore_label=-1, thing_ids=[])
    assert (targets["sem_seg"] == -1).all()
    assert not targets["center_weights"].any() and not targets["offset_weights"].any()
    many = [{"id": 9, "category_id": 1200}]
    targets = panoptic_targets(np.full((3, 4), 9), many, ignore_label=65535, thing_ids=[1200])
    assert (targets["sem_seg"] == 1200).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64, np.uint32])
def test_integer_types(dtype):
    panoptic = np.array([[1, 1, 2], [2, 2, 2]], dtype=dtype)
    infos = [{"id": i, "category_id": i, "iscrowd": 0} for i in (1, 2)]
    targets = panoptic_targets(panoptic, infos, ignore_label=255, thing_ids=[1])
    assert targets["sem_seg"].tolist() == panoptic.tolist()
    assert targets["offset"][1].tolist() == [[0.5, -0.5, 0], [0, 0, 0]]


def touching_scene(seed, size):
    """A grid of touching cells of random things, some stuff, each with its own id."""
    rng = np.random.default_rng(seed)
    height, width = size
    rows = np.sort(rng.choice(np.arange(4, height - 4, 6), 3, replace=False))
    columns = np.sort(rng.choice(np.arange(4, width - 4, 6), 4, replace=False))
    row = np.searchsorted(rows, np.arange(height), side="right")
    column = np.searchsorted(columns, np.arange(width), side="right")
    panoptic = row[:, None] * 5 + column[None] + 1
    labels = rng.choice([0, 1, 1, 3, 4], 20)  # class 1 often beside itself
    stuff = np.isin(panoptic, np.flatnonzero(labels == 0) + 1)
    panoptic[stuff] = 99
    infos = [{"id": 99, "category_id": 0, "iscrowd": 0}]
    infos += [
        {"id": n + 1, "category_id": int(label), "iscrowd": 0}
        for n, label in enumerate(labels)
        if label
    ]
    return panoptic, infos


@pytest.mark.parametrize("seed", range(20))
def test_merging_gives_the_truth_back(seed):
    panoptic, infos = touching_scene(seed, (60, 80))
    targets = PanopticTargets(ignore_label=255, thing_ids=THINGS, sigma=2)(panoptic, infos)
    found = panoptic_segmentation(
        targets["sem_seg"],
        targets["center"],
        targets["offset"],
        thing_ids=THINGS,
        label_divisor=1000,
        stuff_area=0,
        nms_kernel=3,
    ).panoptic.numpy()
    present = [info for info in infos if (panoptic == info["id"]).any()]
    assert len(np.unique(found)) == len(present)
    for info in present:
        labels = np.unique(found[panoptic == info["id"]])
        assert len(labels) == 1 and labels[0] // 1000 == info["category_id"]
        assert np.array_equal(found == labels[0], panoptic == info["id"])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"panoptic": np.zeros((2, 2, 3), int)}, ValueError, r"panoptic .*\(H, W\).*\(2, 2, 3\)"),
        ({"panoptic": np.zeros((2, 2))}, TypeError, "panoptic .*integer.*float64"),
        ({"segments_info": [{"id": 1}]}, ValueError, "segments_info.*category_id"),
        ({"sigma": 0}, ValueError, "sigma .*positive.*0"),
        ({"thing_ids": [-1]}, ValueError, "thing_ids .*-1"),
        ({"small_instance_weight": -1}, ValueError, "small_instance_weight .*at least 0.*-1"),
        ({"crowd": "no"}, ValueError, "crowd .*masked.*no"),
    ],
)
def test_guards(changes, error, message):
    call = {"panoptic": np.zeros((2, 2), int), "segments_info": []}
    settings = {"ignore_label": 255, "thing_ids": [1]}
    for name, value in changes.items():
        (call if name in call else settings)[name] = value
    with pytest.raises(error, match=message):
        PanopticTargets(**settings)(**call)

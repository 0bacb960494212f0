"""Folders of pictures in three colours, and a classifier small enough to learn them in a test."""

import numpy as np
import yaml
from PIL import Image

import axial_d2  # noqa: F401  (first; a spawned process may import this module before all else)

HEIGHT, WIDTH = 48, 64
COLORS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}
TRAIN, VAL = "tiny_folders_train", "tiny_folders_val"


def write_folders(root, *, pictures=8):
    """Writes train and val, each with a folder of jpgs per colour; returns DATASETS.IMAGE_FOLDERS.

    The colour fills three quarters of a picture at random; the rest is noise, as is its brightness.
    """
    for split, seed in (("train", 1), ("val", 2)):
        generator = np.random.default_rng(seed)
        for name, color in COLORS.items():
            (root / split / name).mkdir(parents=True)
            for number in range(pictures):
                picture = generator.integers(0, 256, (HEIGHT, WIDTH, 3))
                filled = generator.random((HEIGHT // 8, WIDTH // 8)) < 0.75
                filled = filled.repeat(8, axis=0).repeat(8, axis=1)
                picture[filled] = np.array(color) * generator.uniform(0.7, 1.2)
                picture = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
                picture.save(root / split / name / f"{number}.jpg")
    return [
        {"name": TRAIN, "root": str(root / "train")},
        {"name": VAL, "root": str(root / "val")},
    ]


def write_classifier_config(path, folders, output_dir):
    """Writes a config that trains a tiny classifier on the folders, on one process."""
    content = {
        "MODEL": {
            "META_ARCHITECTURE": "AxialClassifier",
            "PIXEL_MEAN": [123.675, 116.28, 103.53],
            "PIXEL_STD": [58.395, 57.12, 57.375],
            "BACKBONE": {"NAME": "build_axial_resnet_backbone", "FREEZE_AT": 0},
            "AXIAL_RESNET": {
                "DEPTH": 26,
                "WIDTH_MULTIPLIER": 0.125,
                "NUM_HEADS": 2,
                "MAX_DISTANCE": 20,
                "STEM": "conv7",
                "OUTPUT_STRIDE": 32,
                "OUT_FEATURES": ["res5"],
            },
            "AXIAL_CLASSIFIER": {"NUM_CLASSES": 3},
        },
        "DATASETS": {"TRAIN": [TRAIN], "TEST": [VAL], "IMAGE_FOLDERS": folders},
        "DATALOADER": {"NUM_WORKERS": 0},
        "INPUT": {"FORMAT": "RGB", "CROP_SIZE": [32, 40], "MIN_SIZE_TEST": 44},
        "SOLVER": {
            "OPTIMIZER": "SGD",
            "MOMENTUM": 0.9,
            "NESTEROV": True,
            "WEIGHT_DECAY": 8.0e-5,
            "IMS_PER_BATCH": 12,
            "MAX_ITER": 40,
            "BASE_LR": 0.05,
            "WARMUP_ITERS": 5,
            "LR_SCHEDULER_NAME": "WarmupCosineLR",
            "CHECKPOINT_PERIOD": 1000,
        },
        "SEED": 5,
        "VERSION": 2,
        "OUTPUT_DIR": str(output_dir),
    }
    path.write_text(yaml.safe_dump(content))
    return path

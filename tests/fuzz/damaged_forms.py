"""Damages to the other forms of data: folders of masks, COCO instances, folders of classes."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import own_forms
from damaged_pictures import redraw
from damages import WORKS, Damage, edit, rewrite
from PIL import Image

_MASK, _NUMBERS = "semantic/a/p1.png", "instances/a/p1.png"


def _masks(name: str, do: Callable, words: tuple[str, ...], unchecked=None, **fields) -> Damage:
    return Damage(f"mask folders: {name}", do, words, unchecked, form="masks", **fields)


def _instances(name: str, change: Callable, words: tuple[str, ...], unchecked=None, **fields):
    do = edit(change, "instances.json")
    return Damage(f"COCO instances: {name}", do, words, unchecked, form="instances", **fields)


def _folders(name: str, do: Callable, words: tuple[str, ...], unchecked=None, **fields) -> Damage:
    return Damage(f"class folders: {name}", do, words, unchecked, form="folders", **fields)


def _pixels(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return redraw(lambda mask: Image.fromarray(change(np.array(mask))), name)


def _in_colors(mask: np.ndarray) -> np.ndarray:
    table = np.zeros((256, 3), dtype=np.uint8)
    for entry in own_forms.CLASSES["classes"]:
        table[entry["value"]] = entry["color"]
    return table[mask]


def _stray(mask: np.ndarray) -> np.ndarray:
    mask[2, 3:8] = 99
    return mask


def _classes(text: str | bytes) -> Callable[[Path], None]:
    content = text.encode() if isinstance(text, str) else text
    return rewrite("classes.yaml", lambda _: content)


def _annotation(**values) -> Callable[[dict], None]:
    return lambda content: content["annotations"][3].update(values)


def _without(key: str) -> Callable[[dict], None]:
    return lambda content: content["annotations"][3].pop(key)


def _links_round(root: Path) -> None:
    """Links in class folders that lead up again, two at each level: 2 ** 40 ways to walk."""
    for name in ("one", "two"):
        (root / "train/cat" / name).symlink_to(root / "train", target_is_directory=True)


def _emptied(name: str) -> Callable[[Path], None]:
    return lambda root: [path.unlink() for path in (root / name).iterdir()]


def _loose(root: Path) -> None:
    for folder in list((root / "train").iterdir()):
        for path in list(folder.iterdir()):
            path.rename(root / "train" / f"{folder.name}{path.name}")
        folder.rmdir()


_HUGE = {"size": [24, 34], "counts": [10**9, 5]}

DAMAGES = [
    _masks("mask in the classes' colours", _pixels(_MASK, _in_colors), WORKS),
    _masks("mask of 16 bits", _pixels(_MASK, lambda m: m.astype(np.uint16)), WORKS),
    _masks("mask with a palette", redraw(lambda m: m.convert("P"), _MASK), WORKS),
    _masks("mask with a value that no class has", _pixels(_MASK, _stray), (_MASK, "99")),
    _masks("mask in other colours", _pixels(_MASK, lambda m: 255 - _in_colors(m)), (_MASK,)),
    _masks("mask that is floating-point", redraw(lambda m: m.convert("F"), _MASK, format="tiff"),
           (_MASK, "mode F")),
    _masks("mask with transparency", redraw(lambda m: m.convert("LA"), _MASK), (_MASK, "mode LA")),
    _masks("mask cut off", rewrite(_MASK, lambda b: b[: len(b) // 2]), (_MASK,)),
    _masks("mask of zero bytes", rewrite(_MASK, lambda _: b""), (_MASK,)),
    _masks("mask of another size", redraw(
        lambda m: m.resize((17, 12), Image.Resampling.NEAREST), _MASK), ("17x12",)),
    _masks("mask that is all void", _pixels(_MASK, np.zeros_like), WORKS, alters=("truth",)),
    _masks("mask that is missing", lambda root: (root / _MASK).unlink(), (_MASK,)),
    _masks("numbers of another size", redraw(lambda m: m.resize((17, 12)), _NUMBERS),
           (_NUMBERS, "17x12")),
    _masks("numbers in colours", redraw(lambda m: m.convert("RGB"), _NUMBERS), WORKS),
    _masks("numbers that are missing", lambda root: (root / _NUMBERS).unlink(), (_NUMBERS,)),
    _masks("no pictures", lambda root: (shutil.rmtree(root / "images"), (root / "images").mkdir()),
           ("images", "came none")),
    _masks("two pictures of one name", lambda root: shutil.copy(
        root / "images/a/p1.jpg", root / "images/a/p1.jpeg"), ("p1.jpg", "p1.jpeg")),
    _masks("picture cut off", rewrite("images/a/p1.jpg", lambda b: b[:300]), ("p1.jpg",)),
    _masks("classes of zero bytes", _classes(""), ("classes.yaml",)),
    _masks("classes that are no yaml", _classes("a: [b"), ("classes.yaml", "not a yaml file")),
    _masks("classes that are random bytes", _classes(bytes(range(128, 256))), ("classes.yaml",)),
    _masks("classes that are a list", _classes("[1, 2]"), ("classes.yaml",)),
    _masks("classes with a value twice", rewrite("classes.yaml", lambda b: b.replace(
        b"value: 26", b"value: 23")), ("classes.yaml", "23")),
    _masks("class without its type", rewrite("classes.yaml", lambda b: b.replace(
        b"type:", b"tipe:")), ("classes.yaml", "type")),
    _masks("class with a value of 10 ** 12", rewrite("classes.yaml", lambda b: b.replace(
        b"value: 26", b"value: 1000000000000")), ("classes.yaml",)),
    _masks("classes with an alias that grows", _classes("a: &a [1,1]\nb: &b [*a,*a]\nclasses: *b"),
           ("classes.yaml",)),
    _instances("polygon of texts", _annotation(segmentation=[["a"] * 6]), ("p1.png", "'a'")),
    _instances("polygon with NaN", _annotation(segmentation=[[float("nan")] * 6]),
               ("p1.png", "nan")),
    _instances("polygon of two points", _annotation(segmentation=[[1, 2, 3, 4]]), WORKS,
               alters=("truth",)),
    _instances("polygon of an odd length", _annotation(segmentation=[[1, 2, 3, 4, 5, 6, 7]]),
               WORKS, alters=("truth",)),
    _instances("polygon outside the picture", _annotation(segmentation=[
        [-100, -100, 1e6, -100, 1e6, 1e6, -100, 1e6]]), WORKS, alters=("truth",)),
    _instances("no polygon", _annotation(segmentation=[]), ("p1.png", "segmentation")),
    _instances("segmentation is a text", _annotation(segmentation="all"),
               ("instances.json", "segmentation")),
    _instances("run lengths of another size", _annotation(segmentation={
        "size": [5, 5], "counts": [10, 15]}), ("p1.png", "5x5")),
    _instances("run lengths beyond the picture", _annotation(segmentation=_HUGE), ("p1.png",)),
    _instances("run lengths that are broken", _annotation(segmentation={
        "size": [24, 34], "counts": "abc"}), ("p1.png",)),
    _instances("run lengths without counts", _annotation(segmentation={"size": [24, 34]}),
               ("p1.png",)),
    _instances("unknown category", _annotation(category_id=77), ("instances.json", "77")),
    _instances("unknown image", _annotation(image_id=77), ("instances.json", "77")),
    _instances("iscrowd is a text", _annotation(iscrowd="no"), ("instances.json", "no")),
    *(_instances(f"annotation without {key}", _without(key), ("instances.json", key))
      for key in ("image_id", "category_id", "segmentation")),
    _instances("annotation without area and bbox", lambda c: [
        a.pop(key) for a in c["annotations"] for key in ("area", "bbox")], WORKS),
    _instances("no annotation at all", lambda c: c.update(annotations=[]), WORKS,
               alters=("truth",)),
    _instances("two pictures with one id", lambda c: c["images"][1].update(id=50),
               ("instances.json", "50")),
    _instances("two categories with one id", lambda c: c["categories"][1].update(id=9),
               ("instances.json", "9")),
    _instances("category that the classes lack", lambda c: c["categories"][1].update(name="cart"),
               ("instances.json", "'cart'")),
    _folders("picture cut off", rewrite("train/cat/0.jpg", lambda b: b[:300]),
             ("train/cat/0.jpg",)),
    _folders("second picture cut off", rewrite("train/cat/1.jpg", lambda b: b[:300]),
             ("train/cat/1.jpg",)),
    _folders("picture of zero bytes", rewrite("val/owl/0.jpg", lambda _: b""),
             ("val/owl/0.jpg",)),
    _folders("class without a picture", _emptied("train/dog"), ("train", "dog")),
    _folders("class that the other half lacks", lambda root: shutil.rmtree(root / "val/owl"),
             ("owl",), ("NUM_CLASSES", "expected 2")),
    _folders("class more than the model has", lambda root: [
        shutil.copytree(root / f"{half}/cat", root / f"{half}/yak") for half in ("train", "val")],
        ("NUM_CLASSES", "expected 4")),
    _folders("pictures without class folders", _loose, ("train", "no folder says the class of")),
    _folders("no folder at all", lambda root: shutil.rmtree(root / "train"),
             ("DATASETS.IMAGE_FOLDERS", "train")),
    _folders("names in Unicode with spaces", lambda root: [
        os.rename(root / f"{half}/cat", root / f"{half}/кошка %s 猫") for half in ("train", "val")],
        WORKS),
    _folders("text file among the pictures", lambda root: (root / "train/cat/a.txt").write_text(
        "x"), WORKS),
    _folders("hidden file of a file manager", lambda root: (
        root / "train/cat/._0.jpg").write_bytes(b"x"), WORKS),
    _folders("links that lead round in a ring", _links_round, WORKS),
    _folders("link that leads nowhere", lambda root: (
        (root / "train/cat/0.jpg").unlink(), (root / "train/cat/0.jpg").symlink_to("no")),
        ("train/cat/0.jpg",)),
    _folders("folder that is named as a picture", lambda root: (
        root / "train/cat/9.jpg").mkdir(), WORKS),
]  # fmt: skip

"""Damages to the panoptic json."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from damages import WORKS, Damage, edit, rewrite, segment

_JSON = "panoptic.json"
_NOT_JSON = (_JSON, "not a json file")
_NOT_PANOPTIC = (_JSON, "not a COCO panoptic json")


def _said(content: Any) -> Callable[[Path], None]:
    """The json says something else altogether."""
    return rewrite(_JSON, lambda _: json.dumps(content).encode())


def _encoded(encoding: str) -> Callable[[Path], None]:
    return rewrite(_JSON, lambda content: content.decode().encode(encoding))


def _image(**values: Any) -> Callable[[Path], None]:
    return edit(lambda content: content["images"][1].update(values))


def _segment(**values: Any) -> Callable[[Path], None]:
    return edit(lambda content: segment(content).update(values))


def _category(**values: Any) -> Callable[[Path], None]:
    return edit(lambda content: content["categories"][1].update(values))


def _without(*path: Any) -> Callable[[Path], None]:
    """A key, at the end of a path into the json, is missing."""

    def change(content: Any) -> None:
        for step in path[:-1]:
            content = content[step]
        del content[path[-1]]

    return edit(change)


_SEGMENT = ("annotations", 1, "segments_info", 0)

DAMAGES = [
    Damage("json cut off in the middle", rewrite(_JSON, lambda b: b[: len(b) // 2]), _NOT_JSON),
    Damage("json of zero bytes", rewrite(_JSON, lambda _: b""), _NOT_JSON),
    Damage("json of random bytes", rewrite(_JSON, lambda _: bytes(range(256))), _NOT_JSON),
    Damage("json with a comma too many", rewrite(_JSON, lambda b: b[:-1] + b",}"), _NOT_JSON),
    Damage("json with a byte order mark", _encoded("utf-8-sig"), WORKS),
    Damage("json in UTF-16", _encoded("utf-16"), _NOT_JSON),
    Damage("json nested a hundred thousand times", rewrite(_JSON, lambda _: b"[" * 100000),
           (_JSON,)),
    Damage("json is {}", _said({}), (*_NOT_PANOPTIC, "'images'")),
    Damage("json is a list", _said([1, 2]), (*_NOT_PANOPTIC, "list")),
    Damage("json is null", _said(None), _NOT_PANOPTIC),
    Damage("json is a folder", lambda root: ((root / _JSON).unlink(), (root / _JSON).mkdir()),
           (_JSON, "expected a file")),
    Damage("json is missing", lambda root: (root / _JSON).unlink(), (_JSON, "expected a file")),
    *(Damage(f"no {key} in the json", _without(key), (*_NOT_PANOPTIC, f"'{key}'"))
      for key in ("images", "annotations", "categories")),
    Damage("images is a mapping", edit(lambda c: c.update(images={"1": 2})),
           (*_NOT_PANOPTIC, "'images'")),
    Damage("images has numbers", edit(lambda c: c.update(images=[1, 2, 3])),
           (*_NOT_PANOPTIC, "'images'")),
    Damage("images is empty", edit(lambda c: c.update(images=[])), (_JSON,)),
    Damage("annotations is empty", edit(lambda c: c.update(annotations=[])),
           (_JSON,), (_JSON, "annotated image")),
    Damage("categories is empty", edit(lambda c: c.update(categories=[])),
           (*_NOT_PANOPTIC, "categories")),
    Damage("300 categories", edit(lambda c: c.update(categories=[
        {"id": i, "name": f"c{i}", "isthing": 0} for i in range(300)])),
        (*_NOT_PANOPTIC, "255 categories")),
    *(Damage(f"image without {key}", _without("images", 1, key), (_JSON, key), words)
      for key, words in (("id", (_JSON, "id")), ("file_name", (_JSON, "file_name")),
                         ("height", (_JSON, "height")), ("width", (_JSON, "width")))),
    *(Damage(f"annotation without {key}", _without("annotations", 1, key), (_JSON, key), None)
      for key in ("image_id", "file_name", "segments_info")),
    Damage("segment without id", _without(*_SEGMENT, "id"), ("001.png", "id"), (_JSON, "'id'")),
    Damage("segment without category_id", _without(*_SEGMENT, "category_id"),
           ("001.png", "category_id"), (_JSON, "category_id")),
    Damage("segment without iscrowd", _without(*_SEGMENT, "iscrowd"), ("001.png", "iscrowd"),
           WORKS),
    Damage("segment without area", _without(*_SEGMENT, "area"), ("001.png", "area"), WORKS),
    Damage("segment without bbox", _without(*_SEGMENT, "bbox"), WORKS),
    *(Damage(f"category without {key}", _without("categories", 1, key), (*_NOT_PANOPTIC, key))
      for key in ("id", "name", "isthing")),
    Damage("category without color", _without("categories", 1, "color"), WORKS),
    Damage("width and height swapped in the json", _image(width=24, height=33),
           ("001.png", "24x33", "33x24")),
    Damage("height as a text", _image(height="24"), ("001.png", "height"), WORKS),
    Damage("height as words", _image(height="tall"), ("001.png", "height"), (_JSON, "tall")),
    Damage("height as a fraction", _image(height=24.5), ("001.png", "height"), (_JSON, "24.5")),
    Damage("height is NaN", _image(height=float("nan")), ("001.png", "height"), (_JSON, "nan")),
    Damage("height is infinite", _image(height=float("inf")), ("001.png", "height"),
           (_JSON, "inf")),
    Damage("height is negative", _image(height=-24), ("001.png", "-24")),
    Damage("height is null", _image(height=None), ("001.png", "height"), (_JSON,)),
    Damage("size is zero", _image(height=0, width=0), ("001.png", "0x0")),
    Damage("size is huge", _image(height=10**12, width=10**12), ("001.png", "1000000000000")),
    Damage("file name is a number", _image(file_name=7), (_JSON, "file_name")),
    Damage("file name is empty", _image(file_name=""), ("images",)),
    Damage("image id is a list", _image(id=[11]), (_JSON,)),
    Damage("image id is a text", edit(lambda c: (
        c["images"][1].update(id="a"), c["annotations"][1].update(image_id="a"))), WORKS),
    Damage("image id is a mapping", edit(lambda c: c["annotations"][1].update(image_id={})),
           (_JSON,)),
    Damage("image id is NaN", _image(id=float("nan")), (_JSON,)),
    Damage("two images with one id", _image(id=10), ("001.png", "10"), (_JSON,)),
    Damage("two annotations of one image", edit(lambda c: c["annotations"][1].update(image_id=10)),
           ("001.png", "10"), None),
    Damage("annotation without its image", edit(lambda c: c["images"].pop(1)),
           ("001.png", "image_id 11"), (_JSON, "11")),
    Damage("image without its annotation", edit(lambda c: c["annotations"].pop(1)),
           ("001.png", "without annotation"), WORKS, alters=("count",)),
    Damage("segments_info is a text", edit(lambda c: c["annotations"][1].update(
        segments_info="x")), _NOT_PANOPTIC),
    Damage("segment is a number", edit(lambda c: c["annotations"][1]["segments_info"].append(5)),
           ("001.png", "came 5"), (_JSON,)),
    Damage("segment is null", edit(lambda c: c["annotations"][1]["segments_info"].append(None)),
           ("001.png", "came None"), (_JSON,)),
    Damage("segment id is negative", _segment(id=-5), ("001.png", "-5"),
           ("001.png", "segments_info")),
    Damage("segment id is 0", _segment(id=0), ("001.png", "0"), None),
    Damage("segment id is more than three bytes", _segment(id=2**24 + 1),
           ("001.png", "16777217"), ("001.png", "segments_info")),
    Damage("segment id is huge", _segment(id=10**30), ("001.png", "1" + 30 * "0"),
           (_JSON, "1" + 30 * "0")),
    Damage("segment id is a fraction", _segment(id=1.5), ("001.png", "1.5"), (_JSON, "1.5")),
    Damage("segment id is a text", _segment(id="1"), ("001.png", "id"), (_JSON, "id")),
    Damage("segment id is NaN", _segment(id=float("nan")), ("001.png", "nan"), (_JSON, "nan")),
    Damage("segment id is true", _segment(id=True), (_JSON, "True")),
    Damage("two segments with one id", edit(lambda c: segment(c, 1).update(id=1)),
           ("001.png", "1 again"), ("001.png", "segments_info")),
    Damage("unknown category", _segment(category_id=99), ("001.png", "99"), (_JSON, "99")),
    Damage("category_id is a text", _segment(category_id="7"), ("001.png", "category_id"),
           (_JSON, "'7'")),
    Damage("category_id is a list", _segment(category_id=[7]), ("001.png", "category_id"),
           (_JSON, "[7]")),
    Damage("category_id is NaN", _segment(category_id=float("nan")), ("001.png", "nan"),
           (_JSON, "nan")),
    Damage("iscrowd is a text", _segment(iscrowd="no"), ("001.png", "iscrowd"), (_JSON, "no")),
    Damage("area is wrong", _segment(area=3), ("001.png", "came 3"), WORKS),
    Damage("area is negative", _segment(area=-3), ("001.png", "came -3"), WORKS),
    Damage("area is NaN", _segment(area=float("nan")), ("001.png", "nan"), WORKS),
    Damage("area is a text", _segment(area="9"), ("001.png", "area"), WORKS),
    Damage("bbox is wrong", _segment(bbox=[0, 0, 1, 1]), WORKS),
    Damage("bbox is a text", _segment(bbox="all"), WORKS),
    Damage("bbox is NaN", _segment(bbox=[float("nan")] * 4), WORKS),
    Damage("bbox is a number", _segment(bbox=4), WORKS),
    Damage("two categories with one id", _category(id=7), (*_NOT_PANOPTIC, "id 7")),
    Damage("two categories with one name", _category(name="road"), (*_NOT_PANOPTIC, "'road'")),
    Damage("category id is a text", _category(id="3"), (*_NOT_PANOPTIC, "'3'")),
    Damage("category id is negative", edit(lambda c: (
        c["categories"][1].update(id=-3),
        [s.update(category_id=-3) for a in c["annotations"] for s in a["segments_info"]
         if s["category_id"] == 3])), WORKS),
    Damage("category id is huge", edit(lambda c: (
        c["categories"][1].update(id=10**20),
        [s.update(category_id=10**20) for a in c["annotations"] for s in a["segments_info"]
         if s["category_id"] == 3])), WORKS),
    Damage("category name is null", _category(name=None), _NOT_PANOPTIC),
    Damage("category name is empty", _category(name=""), WORKS),
    Damage("category name is a line of Unicode", _category(name="авто 自動車 %s {} \n,"), WORKS),
    Damage("isthing is a text", _category(isthing="yes"), (*_NOT_PANOPTIC, "isthing")),
    Damage("color is a text", _category(color="red"), (*_NOT_PANOPTIC, "color")),
    Damage("color is out of range", _category(color=[0, 0, 256]), (*_NOT_PANOPTIC, "color")),
    Damage("a category more than the model has",
           edit(lambda c: c["categories"].append({"id": 50, "name": "new", "isthing": 0})),
           ("NUM_CLASSES", "expected 5")),
    Damage("no category is a thing", edit(lambda c: [k.update(isthing=0) for k in c["categories"]]),
           WORKS, alters=("truth",)),
    Damage("every category is a thing", edit(lambda c: [
        k.update(isthing=1) for k in c["categories"]]), WORKS, alters=("truth",)),
    Damage("it is COCO's instances json", lambda root: (root / _JSON).write_text(json.dumps({
        "images": [], "categories": [], "annotations": [{"id": 1, "segmentation": []}]})),
        (*_NOT_PANOPTIC, "segmentation")),
]  # fmt: skip

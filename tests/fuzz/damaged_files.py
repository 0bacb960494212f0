"""Damages to names, links and folders, and outputs that cannot be written."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from damages import WORKS, Damage, edit


def _renamed(name: str, *, listed: str | None = None) -> Callable[[Path], None]:
    """The second picture and its truth have another name, which the json says."""

    def do(root: Path) -> None:
        for folder, extension in (("images", ".png"), ("panoptic", ".png")):
            target = root / folder / f"{name}{extension}"
            target.parent.mkdir(parents=True, exist_ok=True)
            (root / folder / "001.png").rename(target)
        edit(change)(root)

    def change(content: dict) -> None:
        said = listed or name
        content["images"][1]["file_name"] = f"{said}.png"
        content["annotations"][1]["file_name"] = f"{said}.png"

    return do


def _absolute(root: Path) -> None:
    """The json has absolute paths, into a folder beside."""
    beside = root.parent / "beside"
    beside.mkdir()
    shutil.copy(root / "images/001.png", beside / "p.png")
    shutil.copy(root / "panoptic/001.png", beside / "t.png")
    edit(lambda c: (c["images"][1].update(file_name=str(beside / "p.png")),
                    c["annotations"][1].update(file_name=str(beside / "t.png"))))(root)  # fmt: skip


def _upwards(root: Path) -> None:
    shutil.copy(root / "images/001.png", root / "outside.png")
    edit(lambda c: c["images"][1].update(file_name="../outside.png"))(root)


def _linked(root: Path) -> None:
    """Every file, and a folder, is a link."""
    (root / "images").rename(root / "real")
    (root / "images").symlink_to("real")
    (root / "panoptic/001.png").rename(root / "far.png")
    (root / "panoptic/001.png").symlink_to(root / "far.png")
    (root / "panoptic.json").rename(root / "far.json")
    (root / "panoptic.json").symlink_to("far.json")


def _link(name: str, to: str) -> Callable[[Path], None]:
    def do(root: Path) -> None:
        path = root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        path.symlink_to(to)

    return do


def _folder_for(name: str) -> Callable[[Path], None]:
    return lambda root: ((root / name).unlink(), (root / name).mkdir())


def _pipe(root: Path) -> None:
    """Opening it would wait for a writer, for ever."""
    (root / "images/001.png").unlink()
    os.mkfifo(root / "images/001.png")


def _locked(root: Path) -> None:
    (root / "images/001.png").chmod(0)


def _nothing(root: Path) -> None:
    """The dataset stays as it is: the damage is elsewhere."""


def _file_in_the_way(root: Path) -> None:
    (root.parent / "taken").write_text("a file")


def _read_only(root: Path) -> None:
    (root.parent / "locked").mkdir(mode=0o500)


def _output(name: str) -> tuple[str, ...]:
    return ("OUTPUT_DIR", f"{{}}/{name}")


_PICTURE = ("images/001.png",)

DAMAGES = [
    Damage("names with spaces", _renamed("a picture of mine"), WORKS),
    Damage("names in Unicode", _renamed("картинка-写真-ñ"), WORKS),
    Damage("names with percent signs and braces", _renamed("100%s{0}#?&'\""), WORKS),
    Damage("names with a line feed", _renamed("two\nlines"), WORKS),
    Damage("names with a backslash", _renamed("a\\b"), WORKS),
    Damage("names of 250 letters", _renamed("x" * 250), WORKS),
    Damage("names in a folder further down", _renamed("deep/er/001"), WORKS),
    Damage("names that begin with a dot and a hyphen", _renamed("-.001"), WORKS),
    Damage("names that only the json has in capitals", _renamed("small", listed="SMALL"),
           ("SMALL.png", "not there"), ("SMALL.png",)),
    Damage("names longer than the system takes",
           edit(lambda c: c["images"][1].update(file_name=300 * "x" + ".png")), ("xxx.png",)),
    Damage("a name with a zero byte", edit(lambda c: c["images"][1].update(file_name="a\0b.png")),
           ("b.png",)),
    Damage("half a surrogate in a name", edit(lambda c: c["images"][1].update(
        file_name="a\ud800.png")), ("json",), ("ud800",)),
    Damage("another extension in the json than the file's",
           edit(lambda c: c["images"][1].update(file_name="001.jpg")), ("001.jpg", "001.png is"),
           ("001.jpg",)),
    Damage("absolute file names", _absolute, WORKS),
    Damage("file name that leads out of the folder", _upwards, WORKS),
    Damage("folders and files that are links", _linked, WORKS),
    Damage("picture that is a link to itself", _link("images/001.png", "001.png"), _PICTURE),
    Damage("picture that is a broken link", _link("images/001.png", "nowhere.png"), _PICTURE),
    Damage("folder of pictures that is a link to itself", _link("images", "images"),
           ("DATASETS.CUSTOM", "images")),
    Damage("json that is a link to itself", _link("panoptic.json", "panoptic.json"),
           ("panoptic.json",)),
    Damage("folder in a picture's place", _folder_for("images/001.png"), _PICTURE),
    Damage("folder in a truth's place", _folder_for("panoptic/001.png"), ("panoptic/001.png",)),
    Damage("pipe in a picture's place", _pipe, _PICTURE),
    Damage("picture that is missing", lambda root: (root / "images/001.png").unlink(), _PICTURE),
    Damage("first picture that is missing", lambda root: (root / "images/000.jpg").unlink(),
           ("images/000.jpg",)),
    Damage("folder of pictures that is missing", lambda root: shutil.rmtree(root / "images"),
           ("DATASETS.CUSTOM", "images", "expected a folder")),
    Damage("folder of pictures that is empty", lambda root: (
        shutil.rmtree(root / "images"), (root / "images").mkdir()), ("images/000.jpg",)),
    Damage("file in the place of the folder of truth", lambda root: (
        shutil.rmtree(root / "panoptic"), (root / "panoptic").write_text("x")),
        ("DATASETS.CUSTOM", "panoptic", "came a file")),
    Damage("picture that may not be read", _locked, ("images/001.png", "ermission")),
    Damage("json that may not be read", lambda root: (root / "panoptic.json").chmod(0),
           ("panoptic.json", "ermission")),
    Damage("OUTPUT_DIR is a file", _file_in_the_way, ("OUTPUT_DIR", "taken"),
           options=_output("taken")),
    Damage("OUTPUT_DIR is below a file", _file_in_the_way, ("OUTPUT_DIR", "taken"),
           options=_output("taken/out")),
    Damage("OUTPUT_DIR may not be written", _read_only, ("OUTPUT_DIR", "locked"),
           options=_output("locked")),
    Damage("OUTPUT_DIR where nothing can be made", _nothing, ("OUTPUT_DIR", "/proc"),
           options=("OUTPUT_DIR", "/proc/fuzz/out")),
    Damage("OUTPUT_DIR with spaces and Unicode", _nothing, WORKS,
           options=_output("my output – 出力 %s")),
    Damage("OUTPUT_DIR with a name that is too long", _nothing, ("OUTPUT_DIR", "too long"),
           options=_output("x" * 300)),
]  # fmt: skip

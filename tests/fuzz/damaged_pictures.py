"""Damages to the pictures. Those of the good dataset are 000.jpg, 001.png and 002.jpeg."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from damages import WORKS, Damage, edit, rewrite
from PIL import Image

_JPG, _PNG = "images/000.jpg", "images/001.png"
_ORIENTATION = 274


def redraw(
    change: Callable[[Image.Image], Image.Image], name: str = _PNG, **options
) -> Callable[[Path], None]:
    """A damage that writes another picture in a file's place."""

    def do(root: Path) -> None:
        with Image.open(root / name) as picture:
            picture.load()
            changed = change(picture)
        changed.save(root / name, **options)

    return do


def _png_header(width: int, height: int) -> Callable[[Path], None]:
    """A png that says it is of another size; what it has is a few bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (
        chunk(b"IHDR", header),
        chunk(b"IDAT", zlib.compress(bytes(1000))),
        chunk(b"IEND", b""),
    )
    return rewrite(_PNG, lambda _: b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def _oriented(value: int) -> Callable[[Path], None]:
    """The picture stored as a camera held otherwise would: turned by EXIF it is what it was."""
    back = {
        3: Image.Transpose.ROTATE_180,
        6: Image.Transpose.ROTATE_90,
        8: Image.Transpose.ROTATE_270,
    }[value]
    exif = Image.Exif()
    exif[_ORIENTATION] = value
    return redraw(lambda picture: picture.transpose(back), _JPG, exif=exif, quality=100)


def _marked_sideways(root: Path) -> None:
    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    redraw(lambda picture: picture, _JPG, exif=exif)(root)


def _swap_size(content: dict) -> None:
    image = content["images"][0]
    image["height"], image["width"] = image["width"], image["height"]


def _marked_and_json(root: Path) -> None:
    _marked_sideways(root)
    edit(_swap_size)(root)
    name = "panoptic/000.png"
    redraw(lambda truth: truth.transpose(Image.Transpose.ROTATE_270), name)(root)


def _sixteen_bits(picture: Image.Image) -> Image.Image:
    """Grey of 16 bits with the same look."""
    return Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)


def _broken_chunk(content: bytes) -> bytes:
    place = content.index(b"IDAT") + 10
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


def _with_size(width: int, height: int) -> Callable[[Path], None]:
    """The first picture and its truth have another size, which the json says; box and area fit."""

    def do(root: Path) -> None:
        redraw(lambda picture: picture.resize((width, height)), _PNG)(root)
        ids = np.zeros((height, width, 3), dtype=np.uint8)
        ids[..., 0] = 1
        Image.fromarray(ids).save(root / "panoptic/001.png")
        edit(change)(root)

    def change(content: dict) -> None:
        content["images"][1].update(height=height, width=width)
        infos = content["annotations"][1]["segments_info"]
        infos[:] = [info for info in infos if info["id"] == 1]
        infos[0].update(area=height * width, bbox=[0, 0, width, height])

    return do


def _unreadable(name: str, *cause: str) -> tuple[str, ...]:
    return (name.split("/")[1], *cause)


DAMAGES = [
    Damage("jpg cut off in the middle", rewrite(_JPG, lambda b: b[: len(b) // 2]),
           _unreadable(_JPG, "runcated")),
    Damage("jpg of zero bytes", rewrite(_JPG, lambda _: b""),
           _unreadable(_JPG, "cannot identify")),
    Damage("text as a jpg", rewrite(_JPG, lambda _: b"<html>404 not found</html>"),
           _unreadable(_JPG, "cannot identify")),
    Damage("jpg of which the first 20 bytes are left", rewrite(_JPG, lambda b: b[:20]),
           _unreadable(_JPG)),
    Damage("png cut off in the middle", rewrite(_PNG, lambda b: b[: len(b) // 2]),
           _unreadable(_PNG, "truncated")),
    Damage("png of zero bytes", rewrite(_PNG, lambda _: b""),
           _unreadable(_PNG, "cannot identify")),
    Damage("png with a flipped byte", rewrite(_PNG, _broken_chunk), _unreadable(_PNG), WORKS),
    Damage("png whose header says 60000 x 60000", _png_header(60000, 60000),
           _unreadable(_PNG, "decompression bomb")),
    Damage("png whose header says 0 x 0", _png_header(0, 0), _unreadable(_PNG)),
    Damage("text as a png", rewrite(_PNG, lambda _: b"{}"),
           _unreadable(_PNG, "cannot identify")),
    Damage("random bytes as a jpg",
           rewrite(_JPG, lambda _: np.random.default_rng(0).bytes(2000)),
           _unreadable(_JPG, "cannot identify")),
    Damage("jpg under the name of a png", redraw(lambda p: p, _PNG, format="jpeg"), WORKS,
           alters=("picture",)),
    Damage("grey picture of 16 bits", redraw(_sixteen_bits), WORKS, alters=("colours",)),
    Damage("grey picture", redraw(lambda p: p.convert("L")), WORKS, alters=("colours",)),
    Damage("grey picture with transparency", redraw(lambda p: p.convert("LA")), WORKS,
           alters=("colours",)),
    Damage("picture with transparency", redraw(lambda p: p.convert("RGBA")), WORKS),
    Damage("picture of 1 bit", redraw(lambda p: p.convert("1")), WORKS, alters=("picture",)),
    Damage("picture with a palette", redraw(lambda p: p.convert("P")), WORKS,
           alters=("picture",)),
    Damage("palette picture with transparency",
           redraw(lambda p: p.convert("P"), transparency=0), WORKS, alters=("picture",)),
    Damage("CMYK jpg", redraw(lambda p: p.convert("CMYK"), _JPG, quality=95), WORKS,
           alters=("picture",)),
    Damage("grey jpg", redraw(lambda p: p.convert("L"), _JPG), WORKS, alters=("picture",)),
    Damage("progressive jpg", redraw(lambda p: p, _JPG, progressive=True, quality=100), WORKS,
           alters=("picture",)),
    Damage("floating-point tiff as a png",
           redraw(lambda p: p.convert("F"), format="tiff"), WORKS, alters=("colours",)),
    Damage("animated gif as a png", redraw(
        lambda p: p, format="gif", save_all=True, append_images=[Image.new("RGB", (33, 24))]),
        WORKS, alters=("picture",)),
    Damage("EXIF says sideways, the json does not", _marked_sideways,
           _unreadable(_JPG, "24x33", "33x24", "EXIF")),
    Damage("EXIF says sideways, json and truth too", _marked_and_json, WORKS,
           alters=("picture", "truth")),
    Damage("stored turned by 90 degrees, EXIF says so", _oriented(6), WORKS,
           alters=("picture",)),
    Damage("stored turned by 270 degrees, EXIF says so", _oriented(8), WORKS,
           alters=("picture",)),
    Damage("stored upside down, EXIF says so", _oriented(3), WORKS, alters=("picture",)),
    Damage("EXIF that is no EXIF", redraw(lambda p: p, _JPG, exif=b"Exif\0\0II*\0\xff\xff\xff"),
           WORKS, alters=("picture",)),
    Damage("picture larger than the json says", redraw(lambda p: p.resize((66, 48))),
           _unreadable(_PNG, "66x48", "33x24")),
    Damage("picture smaller than the json says", redraw(lambda p: p.resize((32, 24))),
           _unreadable(_PNG, "32x24", "33x24")),
    Damage("picture of 1 x 1 pixel", _with_size(1, 1), WORKS, alters=("picture", "truth")),
    Damage("picture 1 pixel high", _with_size(40, 1), WORKS, alters=("picture", "truth")),
    Damage("picture 1 pixel wide", _with_size(1, 40), WORKS, alters=("picture", "truth")),
    Damage("picture ten times as wide as the others", _with_size(330, 24), WORKS,
           alters=("picture", "truth")),
]  # fmt: skip

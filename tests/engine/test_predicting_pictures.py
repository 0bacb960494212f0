"""Which files are read, and where their pictures go."""

from pathlib import Path

import pytest

from axial_d2.engine import SetupError
from axial_d2.engine.prediction import find_pictures, output_paths


@pytest.fixture
def files(tmp_path):
    """Pictures a.jpg, b.PNG, notes.txt, and sub/a.jpg."""
    (tmp_path / "sub").mkdir()
    for name in ("a.jpg", "b.PNG", "notes.txt", "sub/a.jpg"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def test_directories_give_their_pictures_patterns_and_files_anything(files):
    assert find_pictures([str(files)]) == [files / "a.jpg", files / "b.PNG"]
    assert find_pictures([str(files / "**/*.jpg")]) == [files / "a.jpg", files / "sub/a.jpg"]
    assert find_pictures([str(files / "notes.txt")]) == [files / "notes.txt"]


def test_no_file_is_read_twice_and_the_order_given_is_kept(files):
    found = find_pictures([str(files / "b.PNG"), str(files), str(files / "*.jpg")])
    assert found == [files / "b.PNG", files / "a.jpg"]


def test_what_matches_nothing_is_told(files):
    with pytest.raises(SetupError, match=r"no such file, and no file matches: .*c\.jpg"):
        find_pictures([str(files / "a.jpg"), str(files / "c.jpg")])
    (files / "empty").mkdir()
    with pytest.raises(SetupError, match="no picture .* in the directory .*empty"):
        find_pictures([str(files / "empty")])


def test_names_are_kept_apart():
    paths = [Path("x/a.jpg"), Path("y/a.png"), Path("z/A.jpg"), Path("x/a_2.jpg"), Path("x/b.jpg")]
    names = [path.name for path in output_paths(paths, "out")]
    assert names == ["a.png", "a_2.png", "A_3.png", "a_2_2.png", "b.png"]


def test_debug_pictures_are_kept_apart_too():
    paths = [Path("x/a.jpg"), Path("x/a_centers.jpg")]
    assert [p.name for p in output_paths(paths, "out")] == ["a.png", "a_centers.png"]
    assert [p.name for p in output_paths(paths, "out", debug=True)] == [
        "a.png",
        "a_centers_2.png",
    ]


def test_a_picture_read_is_never_written_over(files):
    (files / "c.png").write_bytes(b"x")
    paths = [files / "c.png", files / "a.jpg"]
    assert [p.name for p in output_paths(paths, str(files))] == ["c_2.png", "a.png"]

"""Tests for each bridge. They hold on any Detectron2; what one does not need is skipped there."""

import importlib
import importlib.util
import json
import logging
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from axial_d2 import compat
from axial_d2.import_hooks import is_found

GUARDED = is_found("detectron2.utils.develop")  # upstream's main guards its imports of _C


def test_apply_again_changes_nothing():
    import detectron2

    def state():
        export = sys.modules.get("detectron2.export")
        return list(sys.meta_path), getattr(detectron2, "_C", None), export, Image.LINEAR

    before = state()
    compat.apply()
    assert state() == before


# ---- Pillow, the extension, export, model_zoo ---------------------------------------------------


def test_pillow_linear(monkeypatch):
    monkeypatch.delattr(Image, "LINEAR", raising=False)
    compat.pillow_linear()
    assert Image.LINEAR == Image.BILINEAR
    monkeypatch.setattr(Image, "LINEAR", "theirs")
    compat.pillow_linear()
    assert Image.LINEAR == "theirs"


@pytest.mark.skipif(is_found("detectron2._C"), reason="this Detectron2 has its extension")
@pytest.mark.skipif(GUARDED, reason="this Detectron2 guards its imports of the extension")
def test_placeholder_for_the_extension():
    from detectron2 import _C
    from detectron2.evaluation import fast_eval_api  # noqa: F401  (imports it unguarded)
    from detectron2.layers import deform_conv  # noqa: F401

    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("detectron2._C")
    with pytest.raises(RuntimeError, match=r"detectron2\._C\.nms_rotated .* compiled extension"):
        _C.nms_rotated(1, 2)
    assert not hasattr(_C, "__wrapped__")


def test_collect_env_runs():
    from detectron2.utils.collect_env import collect_env_info

    assert "detectron2" in collect_env_info()


@pytest.mark.parametrize("present", ["detectron2._C", "detectron2.utils.develop"])
def test_no_placeholder_where_none_is_wanted(present, monkeypatch):
    import detectron2

    monkeypatch.delattr(detectron2, "_C", raising=False)
    monkeypatch.setattr(compat, "is_found", lambda name: name == present)
    compat.compiled_extension()
    assert not hasattr(detectron2, "_C")


def test_export_without_caffe2():
    import detectron2.export
    from detectron2.export import TracingAdapter
    from detectron2.utils.analysis import flop_count_operators, parameter_count_table  # noqa: F401

    assert TracingAdapter.__module__ == "detectron2.export.flatten"
    assert callable(detectron2.export.scripting_with_instances)
    assert not hasattr(detectron2.export, "no_such_name")


def test_analysis_counts(seed):
    from detectron2.utils.analysis import FlopCountAnalysis

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 5, 3, bias=False)

        def forward(self, inputs):
            return [{"out": self.layer(x["image"][None].float())} for x in inputs]

    flops = FlopCountAnalysis(Model(), [{"image": torch.zeros(3, 8, 9)}])
    assert flops.total() == 5 * 6 * 7 * 3 * 9


@pytest.mark.skipif(is_found("caffe2"), reason="caffe2 is installed")
def test_names_that_need_caffe2_say_so():
    import detectron2.export

    with pytest.raises((ModuleNotFoundError, AttributeError), match="caffe2|Caffe2Tracer"):
        _ = detectron2.export.Caffe2Tracer


def test_model_zoo_is_lent_pkg_resources():
    before = sys.modules.get("pkg_resources")
    from detectron2 import model_zoo

    # 0.5 from PyPI carries no configs; what counts is that it looks for them in the right place.
    with pytest.raises(RuntimeError, match="nothing.yaml not available in Model Zoo"):
        model_zoo.get_config_file("nothing.yaml")
    found = model_zoo.model_zoo.pkg_resources.resource_filename("detectron2.model_zoo", "a/b.yaml")
    assert Path(found) == Path(model_zoo.__file__).parent / "a/b.yaml"
    assert sys.modules.get("pkg_resources") is before


# ---- numpy --------------------------------------------------------------------------------------


def test_numpy_proxy(monkeypatch):
    proxy = compat._numpy_with_old_names()
    assert proxy.zeros(2, dtype=proxy.int).dtype == np.zeros(2, dtype=int).dtype
    assert proxy.full(2, np.nan, dtype=proxy.float).dtype == np.float64
    assert np.array([1, 0]).astype(proxy.bool).tolist() == [True, False]
    assert proxy.linalg is np.linalg
    values = np.array([[1, 2], [3, 4]])
    assert proxy.in1d(values, [2, 4]).tolist() == [False, True, False, True]
    assert proxy.in1d(values, [2, 4], invert=True).tolist() == [True, False, True, False]
    assert json.dumps(proxy.count_nonzero(values > 1)) == "3"
    assert proxy.count_nonzero(values > 1, axis=0).tolist() == [1, 2]


def test_numpy_itself_is_untouched():
    for name in ("int", "float"):
        assert name not in vars(np)
    assert compat._numpy_with_old_names() is not np


def test_modules_that_need_no_old_name_keep_numpy():
    import detectron2.layers.mask_ops
    from detectron2.data import build

    assert detectron2.layers.mask_ops.np is np
    source = Path(build.__file__).read_text()
    assert (build.np is not np) == ("dtype=np.int)" in source)


def test_module_imported_earlier_is_given_its_names(monkeypatch, tmp_path):
    file = tmp_path / "early.py"
    file.write_text("import numpy as np\ndef zeros():\n    return np.zeros(2, dtype=np.int)\n")
    module = ModuleType("early")
    module.__file__ = str(file)
    exec(file.read_text(), vars(module))
    monkeypatch.setitem(sys.modules, "axial_d2_tests_early", module)
    monkeypatch.setattr(compat, "_NUMPY_1_MODULES", ("axial_d2_tests_early",))
    compat.numpy_names()
    assert module.zeros().tolist() == [0, 0]


def test_class_histogram_is_logged(caplog):
    """Without the names Detectron2 0.5 leaves the table, and its check of ids, out in silence."""
    from detectron2.data.build import print_instances_class_histogram

    with caplog.at_level(logging.INFO, logger="detectron2.data.build"):
        print_instances_class_histogram([{"annotations": [{"category_id": 1}]}], ["cat", "dog"])
    assert "Distribution of instances among all 2 categories" in caplog.text


def test_polygons_become_masks():
    from detectron2.structures import PolygonMasks

    square = PolygonMasks([[np.array([0.0, 0, 4, 0, 4, 4, 0, 4])]])
    assert square.nonempty().tolist() == [True]
    assert square.crop_and_resize(torch.tensor([[0.0, 0, 8, 8]]), 8).sum() == 16

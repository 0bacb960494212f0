"""Checkpoints with position tables of another length, by the roads that Detectron2 has."""

import logging

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import DefaultPredictor
from torch import Tensor, nn

from axial_d2.engine import load_config
from axial_d2.engine.trainer import Trainer

KEY = "MODEL.AXIAL_RESNET.MAX_DISTANCE"
NAME = "backbone.res3.1.attention.width.value_table.weight"
# The nets of depth 26 have 8 blocks, with two axes of three tables.
TOLD = "48 position tables of another length fitted (48 from 11 to 41 rows)"


@pytest.fixture(params=["plain", "of several processes", "numpy"])
def short(request, config_file, tmp_path) -> tuple[dict[str, Tensor], str]:
    """The state of a model with tables of 11 rows, and its file in one of several forms."""
    torch.manual_seed(1)
    model = Trainer.build_model(load_config(str(config_file), [KEY, "5"]))
    state = model.state_dict()
    content = {"module." * (request.param != "plain") + n: v for n, v in state.items()}
    if request.param == "numpy":
        content = {n: v.numpy() for n, v in state.items()}
    torch.save({"model": content}, tmp_path / "short.pth")
    return state, str(tmp_path / "short.pth")


@pytest.fixture(autouse=True)
def read_numpy(monkeypatch):
    """Files with numpy arrays, which newer versions of torch read on request only."""
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda f, **k: load(f, **({"weights_only": False} | k)))


def warnings(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def check_fitted(model: nn.Module, state: dict[str, Tensor]) -> None:
    old = state[NAME]
    ends = [old[:1].expand(15, -1), old, old[-1:].expand(15, -1)]
    assert torch.equal(model.state_dict()[NAME], torch.cat(ends))
    other = "backbone.res5.0.expand.weight"
    assert torch.equal(model.state_dict()[other], state[other])


def predictor(cfg):
    return DefaultPredictor(cfg).model


def trainer(cfg):
    made = Trainer(cfg)
    made.resume_or_load(resume=False)
    return made.model


def detectron2s(cfg):
    model = Trainer.build_model(cfg)
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    return model


@pytest.mark.parametrize("road", [predictor, trainer, detectron2s])
def test_tables_fit_with_one_warning(short, road, config_file, caplog) -> None:
    state, path = short
    with caplog.at_level(logging.WARNING):
        model = road(load_config(str(config_file), ["MODEL.WEIGHTS", path]))
    check_fitted(model, state)
    told = warnings(caplog)
    assert len([text for text in told if "position tables" in text]) == 1
    assert TOLD in next(text for text in told if "position tables" in text)
    assert not any("Skip loading" in text for text in told)


def test_torch_alone(short, config_file, caplog) -> None:
    state, _ = short
    model = Trainer.build_model(load_config(str(config_file)))
    model.load_state_dict(state)
    check_fitted(model, state)
    (told,) = warnings(caplog)
    assert told.startswith(TOLD)
    caplog.clear()
    backbone = {n.removeprefix("backbone."): v for n, v in state.items() if n.startswith("backb")}
    model.backbone.load_state_dict(backbone)
    (told,) = warnings(caplog)
    assert told.startswith(TOLD)


def test_a_table_that_cannot_fit_is_left_out_as_ever(config_file, tmp_path, caplog) -> None:
    cfg = load_config(str(config_file))
    state = Trainer.build_model(cfg).state_dict()
    state[NAME] = state[NAME][1:]  # 40 rows: no distance in the middle
    torch.save({"model": state}, tmp_path / "even.pth")
    model = Trainer.build_model(cfg)
    before = model.state_dict()[NAME].clone()
    with caplog.at_level(logging.WARNING):
        DetectionCheckpointer(model).load(str(tmp_path / "even.pth"))
    assert torch.equal(model.state_dict()[NAME], before)
    assert len([text for text in warnings(caplog) if NAME in text and "shape" in text]) == 1
    assert "position tables" not in " ".join(warnings(caplog))

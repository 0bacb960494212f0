"""The report of what of a file went into a model: a classifier's into a segmentation model, ..."""

import logging

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from axial_d2.engine import SetupError, load_config
from axial_d2.engine.checkpointer import Checkpointer
from axial_d2.engine.loading_report import unseen_options

CLASSIFIER = [
    *("MODEL.META_ARCHITECTURE", "AxialClassifier", "MODEL.AXIAL_CLASSIFIER.NUM_CLASSES", "7"),
    *("MODEL.AXIAL_RESNET.STEM", "conv7", "MODEL.AXIAL_RESNET.STRIDE", "avg_pool"),
    *("MODEL.AXIAL_RESNET.OUTPUT_STRIDE", "32", "MODEL.AXIAL_RESNET.MAX_DISTANCE", "7"),
]


@pytest.fixture
def classifier(config_file, tmp_path):
    """A classifier of another stem and length of tables, and the path of its checkpoint."""
    torch.manual_seed(2)
    model = build_model(load_config(str(config_file), CLASSIFIER))
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    Checkpointer(model, str(tmp_path)).save("classifier", iteration=9)
    return model, str(tmp_path / "classifier.pth")


def report(caplog):
    """The one record of the last load, less what says that a file is read or written."""
    records = [r for r in caplog.records if "Checkpointer]" not in r.getMessage()]
    (record,) = [r for r in records if not r.getMessage().startswith("Saving")]
    return record


def load(model, path, caplog, **kwargs):
    caplog.clear()
    with caplog.at_level(logging.INFO):
        return Checkpointer(model, **kwargs).load(path)


def test_a_classifier_into_a_segmentation_model(classifier, config_file, caplog):
    theirs, path = classifier
    model = build_model(load_config(str(config_file)))
    before = {n: v.clone() for n, v in model.state_dict().items()}
    assert load(model, path, caplog)["iteration"] == 9
    record = report(caplog)
    assert record.levelno == logging.WARNING
    heads = {h: len(getattr(model, h).state_dict()) for h in ("sem_seg_head", "ins_embed_head")}
    stages = {f"res{i}": len(getattr(model.backbone, f"res{i}").state_dict()) for i in (3, 4, 5)}
    res2 = len(model.backbone.res2.state_dict())
    total = len(model.state_dict())
    # The stem's 18, and two convolutions that take the stem's channels, do not fit.
    loaded = res2 - 2 + sum(stages.values())
    assert record.getMessage().splitlines() == [
        f"{path}: {loaded} of the model's {total} tensors loaded",
        "  backbone.stem   not used; 1 of another shape (stem.layers.0.weight (8, 3, 7, 7) in the "
        "file, (8, 3, 3, 3) here), 12 not in the file (stem.layers.3.weight, ...)",
        f"  backbone.res2   loaded in part: {res2 - 2} of {res2}; 2 of another shape "
        "(res2.0.reduce.weight (16, 8, 1, 1) in the file, (16, 16, 1, 1) here)",
        *(f"  backbone.{name}   loaded: {count}" for name, count in stages.items()),
        *(
            f"  {name:14}  not in the file: {count} tensors as initialised"
            for name, count in heads.items()
        ),
        "  fc              not in this model: 2 tensors of the file unused",
        "  48 position tables fitted to this model's length (MAX_DISTANCE): 48 from 15 to 41 rows. "
        "Longer ones repeat the end rows, shorter ones lose rows at both ends",
        "  MODEL.AXIAL_RESNET.STRIDE was avg_pool, is subsample here",
        "  MODEL.AXIAL_RESNET.OUTPUT_STRIDE was 32, is 16 here",
    ]
    # And it is true.
    after, file = model.state_dict(), theirs.state_dict()
    for name in after:
        if name.startswith(("backbone.stem", "sem_seg_head", "ins_embed_head")):
            assert torch.equal(after[name], before[name]), name
        elif not name.endswith("_table.weight") and after[name].shape == file[name].shape:
            assert torch.equal(after[name], file[name]), name


def test_ones_own_checkpoint_is_one_line(classifier, caplog):
    model, path = classifier
    load(model, path, caplog)
    record = report(caplog)
    assert record.levelno == logging.INFO
    total = len(model.state_dict())
    assert record.getMessage() == f"{path}: {total} of the model's {total} tensors loaded"


def test_other_options_alone_are_told(classifier, config_file, caplog):
    model, path = classifier
    other = build_model(
        load_config(str(config_file), [*CLASSIFIER, "MODEL.AXIAL_RESNET.SPAN", "5"])
    )
    load(other, path, caplog)
    assert report(caplog).levelno == logging.WARNING
    assert report(caplog).getMessage().endswith("\n  MODEL.AXIAL_RESNET.SPAN was 0, is 5 here")
    assert unseen_options(other) == {"STRIDE": "avg_pool", "OUTPUT_STRIDE": 32, "SPAN": 5}


def test_a_file_that_tells_no_options_and_was_saved_by_several_processes(classifier, caplog):
    model, path = classifier
    state = {f"module.{n}": v for n, v in model.state_dict().items()}
    # As in very old files, torch's batch norms have no counts, and begin anew.
    state = {n: v for n, v in state.items() if not n.endswith("_norm.num_batches_tracked")}
    state |= {f"module.{n}": v for n, v in model.state_dict().items() if ".logit_norm." in n}
    torch.save({"model": state}, path)
    stem = "stem.layers.0.weight"
    expected = model.backbone.state_dict()[stem].clone()
    nn.init.zeros_(model.backbone.get_parameter(stem))
    load(model, path, caplog)
    assert torch.equal(model.backbone.state_dict()[stem], expected)
    assert report(caplog).levelno == logging.INFO
    told = f"{path}: {len(state)} of the model's {len(state)} tensors loaded"
    assert report(caplog).getMessage() == told


def test_names_that_are_no_ones_are_told_by_part(tmp_path, caplog):
    model = nn.ModuleDict({"one": nn.Linear(2, 3), "two": nn.Linear(3, 1)})
    state = model.state_dict() | {"two.extra": torch.zeros(1), "three.weight": torch.zeros(1)}
    del state["two.bias"]
    torch.save({"model": state}, tmp_path / "f.pth")
    load(model, str(tmp_path / "f.pth"), caplog)
    assert report(caplog).getMessage().splitlines()[1:] == [
        "  one    loaded: 2",
        "  two    loaded in part: 1 of 2; 1 not in the file (two.bias), "
        "1 of the file not in this model (two.extra)",
        "  three  not in this model: 1 tensor of the file unused",
    ]


def test_a_stem_of_another_kind_alone_is_of_another_model(classifier, config_file, tmp_path):
    model, _ = classifier
    state = {n: v for n, v in model.state_dict().items() if n.startswith("backbone.stem")}
    torch.save({"model": state}, tmp_path / "stem.pth")
    with pytest.raises(SetupError, match="weights of another model: none of the 6 tensors"):
        Checkpointer(build_model(load_config(str(config_file)))).load(str(tmp_path / "stem.pth"))

"""The report of what of a file went into a model: a classifier's into a segmentation model, ..."""

import logging

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from axial_d2.engine import SetupError, Trainer, load_config
from axial_d2.engine.checkpointer import Checkpointer
from axial_d2.engine.loading_report import network_facts

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
    facts = network_facts(load_config(str(config_file), CLASSIFIER))
    Checkpointer(model, str(tmp_path), facts=facts).save("classifier", iteration=9)
    return model, str(tmp_path / "classifier.pth")


def report(caplog):
    """The one record of the last load, less what says that a file is read or written."""
    records = [r for r in caplog.records if "Checkpointer]" not in r.getMessage()]
    (record,) = [r for r in records if not r.getMessage().startswith("Saving")]
    return record


def counted(module: nn.Module) -> int:
    """Tensors, less the norms' counts of batches, of which a report does not tell."""
    return sum(not n.endswith("num_batches_tracked") for n in module.state_dict())


@pytest.fixture
def load(config_file, caplog):
    """load(model, path, key, value, ...) -> the record of the report."""

    def call(model, path, *options):
        caplog.clear()
        cfg = load_config(str(config_file), list(options))
        with caplog.at_level(logging.INFO):
            Checkpointer(model, facts=network_facts(cfg)).load(path)
        return report(caplog)

    return call


def test_a_classifier_into_a_segmentation_model(classifier, config_file, load):
    theirs, path = classifier
    model = build_model(load_config(str(config_file)))
    before = {n: v.clone() for n, v in model.state_dict().items()}
    record = load(model, path)
    assert record.levelno == logging.WARNING
    net = model.backbone
    stages = [counted(getattr(net, f"res{i}")) for i in (2, 3, 4, 5)]
    heads = [counted(model.sem_seg_head), counted(model.ins_embed_head)]
    # Two convolutions of res2 take the stem's channels, which are others.
    loaded, total = sum(stages) - 2, sum(stages) + sum(heads) + counted(net.stem)
    initial = "not in the file, which keep their initial values"
    assert record.getMessage().splitlines() == [
        f"Weights: {loaded} of the {total} tensors of this model were loaded",
        f"  backbone.stem: 0 of {counted(net.stem)} tensors loaded: the file's stem is another one "
        "(backbone.stem.layers.0.weight: (8, 3, 7, 7) in the file, (8, 3, 3, 3) here), none of it "
        "is used",
        f"  backbone.res2: {stages[0] - 2} of {stages[0]} tensors loaded; 2 of another shape "
        "(backbone.res2.0.reduce.weight: (16, 8, 1, 1) in the file, (16, 16, 1, 1) here)",
        *(f"  backbone.res{i}: {n} of {n} tensors loaded" for i, n in enumerate(stages[1:], 3)),
        f"  sem_seg_head: 0 of {heads[0]} tensors loaded; {heads[0]} {initial}",
        f"  ins_embed_head: 0 of {heads[1]} tensors loaded; {heads[1]} {initial}",
        "  fc: not in this model, 2 of the file's tensors are not used",
        "  48 position tables of another length fitted (48 from 15 to 41 rows): the zero offset is "
        "aligned, new rows repeat the end row, rows beyond the length are cut",
        "  set otherwise where these weights were trained, which their shapes do not show: "
        "MODEL.AXIAL_RESNET.STRIDE avg_pool in the file, subsample here; "
        "MODEL.AXIAL_RESNET.OUTPUT_STRIDE 32 in the file, 16 here",
    ]
    # And it is true.
    after, file = model.state_dict(), theirs.state_dict()
    for name in after:
        if name.startswith(("backbone.stem", "sem_seg_head", "ins_embed_head")):
            assert torch.equal(after[name], before[name]), name
        elif not name.endswith("_table.weight") and after[name].shape == file[name].shape:
            assert torch.equal(after[name], file[name]), name


def test_ones_own_checkpoint_is_one_line(classifier, load):
    model, path = classifier
    record = load(model, path, *CLASSIFIER)
    assert record.levelno == logging.INFO
    told = f"Weights: all {counted(model)} tensors of the model were in the file"
    assert record.getMessage() == told


def test_other_settings_alone_are_told(classifier, load):
    model, path = classifier
    record = load(model, path, *CLASSIFIER, "MODEL.AXIAL_RESNET.SPAN", "5", "INPUT.FORMAT", "BGR")
    assert record.levelno == logging.WARNING
    assert record.getMessage().endswith(
        ": MODEL.AXIAL_RESNET.SPAN 0 in the file, 5 here; INPUT.FORMAT RGB in the file, BGR here"
    )


def test_a_file_that_tells_no_settings_and_was_saved_by_several_processes(classifier, load):
    model, path = classifier
    # As in very old files, the norms have no counts of batches.
    state = {f"module.{n}": v for n, v in model.state_dict().items() if "num_batches" not in n}
    torch.save({"model": state}, path)
    stem = "stem.layers.0.weight"
    expected = model.backbone.state_dict()[stem].clone()
    nn.init.zeros_(model.backbone.get_parameter(stem))
    record = load(model, path)
    assert torch.equal(model.backbone.state_dict()[stem], expected)
    assert record.levelno == logging.INFO
    assert record.getMessage() == f"Weights: all {len(state)} tensors of the model were in the file"


def test_names_that_are_no_ones_are_told_by_part(tmp_path, load):
    model = nn.ModuleDict({"one": nn.Linear(2, 3), "two": nn.Linear(3, 1)})
    state = model.state_dict() | {"two.extra": torch.zeros(1), "three.weight": torch.zeros(1)}
    del state["two.bias"]
    torch.save({"model": state}, tmp_path / "f.pth")
    assert load(model, str(tmp_path / "f.pth")).getMessage().splitlines() == [
        "Weights: 3 of the 4 tensors of this model were loaded",
        "  one: 2 of 2 tensors loaded",
        "  two: 1 of 2 tensors loaded; 1 not in the file, which keep their initial values "
        "(two.bias); 1 in the file that this model has not (two.extra)",
        "  three: not in this model, 1 of the file's tensors are not used",
    ]


def test_a_stem_of_another_kind_alone_is_of_another_model(classifier, config_file, tmp_path):
    model, _ = classifier
    state = {n: v for n, v in model.state_dict().items() if n.startswith("backbone.stem")}
    torch.save({"model": state}, tmp_path / "stem.pth")
    with pytest.raises(SetupError, match="weights of another model: none of the 6 tensors"):
        Checkpointer(build_model(load_config(str(config_file)))).load(str(tmp_path / "stem.pth"))


def test_a_training_is_not_resumed_with_tables_of_another_length(config_file, tmp_path):
    """The optimiser's state has their length; starting anew from the weights is told as the way."""
    options = ["OUTPUT_DIR", str(tmp_path / "out"), "SOLVER.MAX_ITER", "1", "DATASETS.TEST", "()"]
    trainer = Trainer(load_config(str(config_file), options))
    trainer.resume_or_load(resume=False)
    trainer.train()
    other = Trainer(
        load_config(str(config_file), [*options, "MODEL.AXIAL_RESNET.MAX_DISTANCE", "9"])
    )
    with pytest.raises(SetupError, match=r"MAX_DISTANCE: expected 20, .* got 9\. MODEL\.WEIGHTS"):
        other.resume_or_load(resume=True)

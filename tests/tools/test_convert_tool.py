"""tools/convert_checkpoint.py on the stored network of the public implementation."""

import copy

import pytest
import torch
import yaml
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from golden_comparison import NET, part, read, relative_error

from axial_d2.engine import load_config
from axial_d2.engine.checkpointer import Checkpointer
from axial_d2.engine.loading_report import network_facts

PREFIX = "MODEL.AXIAL_RESNET."


@pytest.fixture(scope="module")
def convert(tool):
    return tool("convert_checkpoint")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """The stored network as the original's training saves it: wrapped, with its optimiser."""
    tensors, _ = read(NET)
    state = {f"module.{k}": v for k, v in part(tensors, "state.").items()}
    for name, table in list(state.items()):
        if name.endswith(".relative"):
            side = (table.shape[1] + 1) // 2
            place = torch.arange(side)
            index = place[:, None] - place + side - 1
            state[name.replace("relative", "flatten_index")] = index.flatten()
    weights = [v for k, v in state.items() if k.endswith("weight")]
    optimiser = torch.optim.SGD(map(torch.nn.Parameter, weights), lr=0.1, momentum=0.9)
    for parameter in optimiser.param_groups[0]["params"]:
        optimiser.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    path = tmp_path_factory.mktemp("original") / "129.pth"
    torch.save({"net": state, "optim": optimiser.state_dict(), "epoch": 129}, path)
    return path


@pytest.fixture(scope="module")
def converted(convert, original):
    """OUT.pth of a conversion; OUT.yaml is beside it."""
    target = original.parent / "converted.pth"
    assert convert("csrhddlam", original, target) == 0
    return target


@pytest.fixture
def classifier(converted):
    """AxialClassifier from the config that was written, with MODEL.WEIGHTS loaded as ever."""
    cfg = load_config(str(converted.with_suffix(".yaml")), ["MODEL.DEVICE", "cpu"])
    assert cfg.MODEL.WEIGHTS == str(converted)
    model = build_model(cfg)
    Checkpointer(model, facts=network_facts(cfg)).load(cfg.MODEL.WEIGHTS)
    return model.double().eval()


def logits(model, x):
    return model.fc(model.backbone(x)[model.feature].mean(dim=(2, 3)))


def test_the_logits_are_the_originals(classifier, caplog) -> None:
    tensors, _ = read(NET)
    x = tensors["input"].double()
    with torch.no_grad():
        assert relative_error(logits(classifier, x), tensors["eval_output"]) < 1e-9
        # As pictures of 0 to 255, through the model itself.
        images = x * classifier.pixel_std + classifier.pixel_mean
        scores = torch.stack([out["scores"] for out in classifier([{"image": i} for i in images])])
    expected = tensors["eval_output"].softmax(dim=1)
    torch.testing.assert_close(scores.double(), expected, rtol=0, atol=1e-6)
    output = logits(classifier.train(), x)
    assert relative_error(output, tensors["train_output"]) < 1e-9


def test_the_config_is_needed_for_that(classifier) -> None:
    """The stride is a fact of the config: the same weights with another give other logits."""
    tensors, _ = read(NET)
    other = copy.deepcopy(classifier)
    for module in other.modules():
        if hasattr(module, "stride_mode") and module.stride > 1:
            module.stride_mode, module.pool = "subsample", torch.nn.Identity()
    with torch.no_grad():
        output = logits(other, tensors["input"][:1].double())
    assert relative_error(output, tensors["eval_output"][:1]) > 1e-2


def test_what_is_written_and_printed(converted, convert, original, capsys) -> None:
    assert convert("csrhddlam", original, converted, "--overwrite") == 0
    printed = capsys.readouterr().out
    for key, value in {
        "DEPTH": 26,
        "WIDTH_MULTIPLIER": 0.125,
        "STEM": "conv7",
        "STRIDE": "avg_pool",
        "OUTPUT_STRIDE": 32,
        "MAX_DISTANCE": 55,
    }.items():
        assert f"  {PREFIX}{key} {value}\n" in printed
    assert "position tables of 111, 55, 27 rows fitted to 111" in printed
    assert f"wrote {converted} and {converted.with_suffix('.yaml')}" in printed
    content = yaml.safe_load(converted.with_suffix(".yaml").read_text())
    assert content["INPUT"] == {"FORMAT": "RGB", "CROP_SIZE": [224, 224], "MIN_SIZE_TEST": 256}
    file = torch.load(converted, weights_only=True)
    assert set(file) == {"model", "__author__", "axial_d2"}
    assert {name.split(".")[0] for name in file["model"]} == {"backbone", "fc"}


def test_it_loads_into_the_segmentation_model(converted, trained, caplog) -> None:
    keys = {"STEM": "conv7", "STRIDE": "avg_pool", "NUM_HEADS": "8"}
    options = [x for key, value in keys.items() for x in (PREFIX + key, value)]
    cfg = load_config(str(trained / "tiny.yaml"), options)
    wanted = torch.load(converted, weights_only=True)["model"]
    for checkpointer in (Checkpointer, DetectionCheckpointer):
        model = build_model(cfg)
        checkpointer(model).load(str(converted))
        state = model.state_dict()
        for name, value in wanted.items():
            if name.endswith("_table.weight"):
                assert state[name].equal(value[35:76]), name  # 41 of 111 rows.
            elif not name.startswith("fc."):
                assert state[name].equal(value), name


def test_mistakes_are_one_line(convert, original, tmp_path, capsys) -> None:
    def error(source, target, *words) -> str:
        assert convert("csrhddlam", source, target, *words) == 1
        said = capsys.readouterr()
        assert not said.out
        assert said.err.startswith("error: ")
        return said.err.removeprefix("error: ").rstrip()

    out = tmp_path / "out.pth"
    missing = tmp_path / "no.pth"
    assert error(missing, out) == f"{missing}: expected a checkpoint, got no such file"
    assert error(original, tmp_path / "no" / "out.pth").startswith("OUT: no such folder: ")
    assert error(original, tmp_path / "out.pkl").startswith(
        "OUT: expected a name that ends in .pth"
    )
    assert error(original, original, "--overwrite").startswith("OUT: expected another file than IN")
    copy_of_original = tmp_path / "in.yaml"
    copy_of_original.write_bytes(original.read_bytes())
    text = error(copy_of_original, tmp_path / "in.pth", "--overwrite")
    assert text == f"OUT: expected another file than IN, but {copy_of_original} would be written"
    copy_of_original.unlink()
    (tmp_path / "folder.pth").mkdir()
    assert error(original, tmp_path / "folder.pth", "--overwrite").endswith("is a folder")
    out.write_bytes(b"mine")
    assert error(original, out) == f"OUT: {out} is there already; --overwrite replaces it"
    assert out.read_bytes() == b"mine"
    out.unlink()
    out.with_suffix(".yaml").write_text("mine")
    assert f"{out.with_suffix('.yaml')} is there already" in error(original, out)
    torch.save({"net": {"a.weight": torch.ones(2)}}, tmp_path / "other.pth")
    text = error(tmp_path / "other.pth", tmp_path / "new.pth")
    assert text.startswith(f"{tmp_path / 'other.pth'}: expected a network of csrhddlam/axial-deep")
    assert not (tmp_path / "new.pth").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.pth", "other.pth", "out.yaml"]

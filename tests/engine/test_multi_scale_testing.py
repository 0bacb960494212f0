"""TEST.AUG through the trainer, and what is refused before it."""

import json

import pytest
import torch
from detectron2.evaluation import DatasetEvaluator

from axial_d2.engine import SetupError, Trainer, load_config
from axial_d2.engine.checks import check_before_evaluation, check_before_training

SCALES = ("TEST.AUG.ENABLED", "True", "TEST.AUG.SCALES", "(0.5, 1.0)")


class Keep(DatasetEvaluator):
    """Keeps all that comes."""

    def reset(self):
        self.pairs = []

    def process(self, inputs, outputs):
        self.pairs += zip(inputs, outputs, strict=True)

    def evaluate(self):
        return {"kept": {"pictures": len(self.pairs)}}


def test_the_trainer_evaluates_with_it(config_file, tmp_path):
    cfg = load_config(str(config_file), list(SCALES))
    torch.manual_seed(0)
    model = Trainer.build_model(cfg)
    calls = []
    model.backbone.register_forward_hook(lambda *args: calls.append(args[1][0].shape[-2:]))
    keep = Keep()
    (tmp_path / "out").mkdir()
    assert Trainer.test(cfg, model, [keep])["kept"] == {"pictures": 6}
    # 48x64, and 24x32 padded to the output stride, twice each.
    assert [tuple(c) for c in calls] == 6 * [(48, 64), (48, 64), (32, 32), (32, 32)]
    model.eval()
    torch.manual_seed(0)
    plain = Trainer.build_model(load_config(str(config_file))).eval()
    with torch.no_grad():
        for inputs, output in keep.pairs:
            (own,), (other,) = model([inputs]), plain([inputs])
            assert torch.equal(output["sem_seg"], own["sem_seg"])
            assert not torch.equal(output["sem_seg"], other["sem_seg"])


def test_the_evaluators_take_its_output(config_file, tmp_path):
    cfg = load_config(str(config_file), list(SCALES))
    results = Trainer.test(cfg, Trainer.build_model(cfg))
    assert set(results) == {"panoptic_seg", "segm", "sem_seg"}
    saved = json.loads((tmp_path / "out/results.json").read_text())
    assert saved["sem_seg"]["mIoU"] == pytest.approx(results["sem_seg"]["mIoU"])


@pytest.mark.parametrize("scales", ["()", "(0.0,)", "(1.0, -2)"])
def test_scales_that_are_none_are_told_with_the_key(config_file, tmp_path, scales):
    cfg = load_config(str(config_file), [*SCALES[:3], scales])
    for check in (check_before_training, lambda c: check_before_evaluation(c, resume=True)):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out/model_final.pth").write_bytes(b"")
        (tmp_path / "out/last_checkpoint").write_text("model_final.pth")
        with pytest.raises(SetupError, match=r"^TEST\.AUG\.SCALES: expected one positive number"):
            check(cfg)
    check_before_training(load_config(str(config_file), ["TEST.AUG.SCALES", scales]))


def test_another_meta_architecture_is_told_that_it_would_not_follow(config_file):
    options = ["MODEL.META_ARCHITECTURE", "PanopticDeepLab"]
    with pytest.raises(SetupError, match=r"^TEST\.AUG\.ENABLED: .*PanopticDeepLab, got True"):
        check_before_training(load_config(str(config_file), [*SCALES, *options]))
    check_before_training(load_config(str(config_file), options))

import pytest
import torch
from torch import nn

import axial_d2  # noqa: F401  (first: it applies the bridges to Detectron2)
from axial_d2.panoptic import center_loss, cross_entropy, hard_pixel_cross_entropy, offset_loss


def batch(seed=0, images=3, classes=5, size=(7, 9), void=0.2):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, classes, *size, generator=generator)
    labels = torch.randint(0, classes, (images, *size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < void] = 255
    weights = torch.randint(1, 4, labels.shape, generator=generator).float()
    return logits.requires_grad_(), labels, weights


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("void", [0.0, 0.5, 0.95])
def test_hard_pixels_equal_detectron2(share, weighted, void):
    module = pytest.importorskip(
        "detectron2.projects.deeplab.loss", reason="Detectron2 is not installed"
    )
    theirs = module.DeepLabCE(ignore_label=255, top_k_percent_pixels=share)
    for seed in range(3):
        logits, labels, weights = batch(seed, void=void)
        weights = weights if weighted else None
        expected = theirs(logits, labels, weights)
        (expected_grad,) = torch.autograd.grad(expected, logits)
        loss = hard_pixel_cross_entropy(logits, labels, weights=weights, top_k_percent=share)
        (grad,) = torch.autograd.grad(loss, logits)
        assert torch.allclose(loss, expected, rtol=1e-6, atol=0)
        assert torch.allclose(grad, expected_grad, rtol=1e-5, atol=1e-9)


def test_hard_pixels_by_hand():
    # Even odds between two classes: log 2 a pixel; the third pixel is surely right, the last void.
    logits = torch.tensor([[[[0.0, 0, 50, 0]], [[0, 0, 0, 0]]]])
    labels = torch.tensor([[[0, 1, 0, 255]]])
    log2 = torch.log(torch.tensor(2.0)).item()
    assert hard_pixel_cross_entropy(logits, labels, top_k_percent=0.5).item() == pytest.approx(log2)
    assert hard_pixel_cross_entropy(logits, labels, top_k_percent=1.0).item() == pytest.approx(
        log2 / 2
    )
    assert cross_entropy(logits, labels).item() == pytest.approx(log2 * 2 / 3)
    weights = torch.tensor([[[3.0, 1, 1, 9]]])
    hard = hard_pixel_cross_entropy(logits, labels, weights=weights, top_k_percent=0.25)
    assert hard.item() == pytest.approx(3 * log2)
    assert cross_entropy(logits, labels, weights=weights).item() == pytest.approx(log2 * 4 / 5)


def test_cross_entropy_equals_torch():
    logits, labels, _ = batch()
    expected = nn.CrossEntropyLoss(ignore_index=255)(logits, labels)
    assert torch.allclose(cross_entropy(logits, labels), expected)


@pytest.mark.parametrize("loss", [hard_pixel_cross_entropy, cross_entropy])
@pytest.mark.parametrize("images", [0, 2])
def test_nothing_known_is_zero_with_a_graph(loss, images):
    logits, labels, weights = batch(images=images)
    value = loss(logits, torch.full_like(labels, 255), weights=weights)
    value.backward()
    assert value.item() == 0
    assert logits.grad.shape == logits.shape and not logits.grad.any()


def test_one_pixel_is_taken_where_the_share_is_less():
    logits, labels, _ = batch(images=1, size=(1, 2), void=0)
    per_pixel = nn.functional.cross_entropy(logits, labels, reduction="none")
    loss = hard_pixel_cross_entropy(logits, labels, top_k_percent=0.2)
    assert torch.allclose(loss, per_pixel.max())


def test_half_of_the_batch_empty():
    logits, labels, weights = batch(images=4)
    labels[2:] = 255
    hard_pixel_cross_entropy(logits, labels, weights=weights).backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[:2].any() and not logits.grad[2:].any()

    pred = torch.randn(4, 2, 5, 6, requires_grad=True)
    target, weight = torch.randn(4, 2, 5, 6), torch.ones(4, 1, 5, 6)
    weight[2:] = 0
    loss = offset_loss(pred, target, weight)
    assert torch.allclose(loss, (pred - target)[:2].abs().sum() / (2 * 5 * 6))
    loss.backward()
    assert pred.grad[:2].all() and not pred.grad[2:].any()


@pytest.mark.parametrize(
    ("ours", "criterion", "channels"),
    [(center_loss, nn.MSELoss, 1), (offset_loss, nn.L1Loss, 2)],
)
def test_maps_as_in_detectron2s_heads(ours, criterion, channels):
    generator = torch.Generator().manual_seed(0)
    pred, target = torch.randn(2, 3, channels, 6, 5, generator=generator)
    for weights in (
        (torch.rand(3, 1, 6, 5, generator=generator) < 0.4).float(),
        torch.rand(3, 1, 6, 5, generator=generator),
        torch.zeros(3, 1, 6, 5),
    ):
        # What their heads compute, with the factor left out.
        loss = criterion(reduction="none")(pred, target) * weights
        expected = loss.sum() / weights.sum() if weights.sum() > 0 else loss.sum() * 0
        assert torch.allclose(ours(pred, target, weights), expected)
        assert torch.equal(ours(pred, target, weights), ours(pred, target, weights[:, 0]))


@pytest.mark.parametrize("ours", [center_loss, offset_loss])
@pytest.mark.parametrize("images", [0, 2])
def test_no_weight_is_zero_with_a_graph(ours, images):
    channels = 1 if ours is center_loss else 2
    pred = torch.randn(images, channels, 3, 4, requires_grad=True)
    loss = ours(pred, torch.zeros_like(pred), torch.zeros(images, 1, 3, 4))
    loss.backward()
    assert loss.item() == 0 and not pred.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype):
    # 65504 is the largest float16: the squared error and the sums would overflow.
    pred = torch.full((1, 1, 40, 40), 300.0, dtype=dtype, requires_grad=True)
    loss = center_loss(pred, torch.zeros(1, 1, 40, 40), torch.ones(1, 1, 40, 40))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(pred[0, 0, 0, 0].item() ** 2)
    logits, labels, _ = batch()
    value = hard_pixel_cross_entropy(logits.to(dtype), labels)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(hard_pixel_cross_entropy(logits, labels).item(), rel=0.02)


LOGITS, LABELS = torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long)
CENTER, OFFSET, WEIGHTS = torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2, 2), torch.ones(1, 1, 2, 2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: hard_pixel_cross_entropy(LOGITS, LABELS, top_k_percent=20),
            ValueError,
            "top_k_percent .*at most 1.*20",
        ),
        (
            lambda: hard_pixel_cross_entropy(LOGITS[0], LABELS),
            ValueError,
            r"logits .*\(N, C, H, W\).*\(3, 2, 2\)",
        ),
        (
            lambda: hard_pixel_cross_entropy(LOGITS, LABELS[:, :1]),
            ValueError,
            r"labels .*\(1, 2, 2\).*\(1, 1, 2\)",
        ),
        (
            lambda: hard_pixel_cross_entropy(LOGITS, LABELS.float()),
            TypeError,
            "labels .*integers.*float32",
        ),
        (
            lambda: hard_pixel_cross_entropy(LOGITS, LABELS + 3),
            ValueError,
            r"labels .*0\.\.2 or ignore_label 255.*3",
        ),
        (
            lambda: cross_entropy(LOGITS, LABELS, weights=WEIGHTS),
            ValueError,
            r"weights .*\(1, 2, 2\).*\(1, 1, 2, 2\)",
        ),
        (lambda: center_loss(OFFSET, OFFSET, WEIGHTS), ValueError, r"pred .*\(N, 1, H, W\)"),
        (lambda: offset_loss(OFFSET, CENTER, WEIGHTS), ValueError, r"target .*\(1, 2, 2, 2\)"),
        (lambda: offset_loss(OFFSET, OFFSET, OFFSET), ValueError, r"weights .*\(1, 1, 2, 2\)"),
        (lambda: center_loss(CENTER.long(), CENTER, WEIGHTS), TypeError, "pred .*floating"),
    ],
)
def test_guards(call, error, message):
    with pytest.raises(error, match=message):
        call()

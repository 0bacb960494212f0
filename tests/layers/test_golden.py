"""Layers and blocks against stored results of the public PyTorch implementation."""

import hashlib

import pytest
import torch
from golden_comparison import GOLDEN, LAYERS, NET, QUANTITIES, compare

from axial_d2 import ops
from axial_d2.layers import axial_attention, folding

# Of the files as they were computed. With others, the comparisons would say little.
SHA256 = {
    "attention_height": "9927b1f4e26fb1d574e15290074dd210abd2cecf72528dc60aec98e9cd3c9e71",
    "attention_width": "48c88128552790c86b7fa9d9b5202d2df6db5a8c88a0b6bf82b31c2167df178d",
    "block_stride2": "ad16aa9001792e3bc91c44bc26f7401ec168c74b423289402a21d1822396f8c8",
    "net26_s0125": "f349ed261833eca02b6b277883bd1c44d6729e035fb4289da26ab3f68e4dbcfd",
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("backend", [b for b in ops.BACKENDS if b != "triton"])
def test_equals_the_public_implementation(
    name: str, dtype: torch.dtype, bound: float, backend: str
) -> None:
    with ops.use_backend(backend), ops.record_backends() as ran:
        errors = compare(name, dtype)
    assert set(ran) == {backend}
    assert [error for error in errors if not error.value < bound] == []
    # Nothing that there is to compare was left out.
    expected = set(QUANTITIES)
    if name != "block_stride2":  # One axis alone has no such gradient.
        expected.remove("gradients that are zero")
    assert {error.quantity for error in errors} == expected


def test_the_comparison_sees_a_small_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    # A millionth more than the stored layer's 1e-5 under the root of every norm.
    original = torch.nn.functional.batch_norm

    def slightly_off(*args: object) -> torch.Tensor:
        return original(*args[:-1], args[-1] + 1e-6)

    def folded_slightly_off(norm: torch.nn.Module) -> folding.Affine:
        norm.eps += 1e-6
        affine = folding.running_affine(norm)
        norm.eps -= 1e-6
        return affine

    monkeypatch.setattr(torch.nn.functional, "batch_norm", slightly_off)
    monkeypatch.setattr(axial_attention, "running_affine", folded_slightly_off)
    errors = compare("attention_width", torch.float64)
    for quantity in ("evaluation output", "training output", "input's gradient"):
        assert max(e.value for e in errors if e.quantity == quantity) > 1e-9


def test_the_stored_files_are_those_that_were_computed() -> None:
    found = {
        file.stem: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in GOLDEN.glob("*.safetensors")
    }
    assert found == SHA256
    assert set(found) == {*LAYERS, NET}

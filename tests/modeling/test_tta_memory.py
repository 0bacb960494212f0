"""Memory of multi-scale testing, by counting tensors: one scale at a time and the sums."""

import torch
from detectron2.modeling import build_model
from model_configs import CLASSES, small_config
from torch.nn import functional as F

from axial_d2.analysis import PeakMemory
from axial_d2.modeling import AxialDeepLab


def model(*options: object) -> AxialDeepLab:
    return build_model(small_config(*options)).eval()


def peak_bytes(model: AxialDeepLab, inputs: list[dict]) -> int:
    with torch.no_grad(), PeakMemory() as counter:
        for _ in model._all_maps(inputs):
            pass
    return counter.peak


def test_memory_is_that_of_the_largest_scale_and_the_sums() -> None:
    inputs = [{"image": torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)}]

    def peak(scales: tuple[float, ...], pictures: int = 1) -> int:
        return peak_bytes(
            model("TEST.AUG.ENABLED", True, "TEST.AUG.SCALES", scales), inputs * pictures
        )

    one, few = peak((1.5,)), peak((1.0, 1.5))
    many = peak(tuple(n / 10 for n in (5, 7, 8, 9, 10, 11, 13, 15)))
    # Even 1.5 alone is two views, of which the second meets the first one's sums.
    assert one == few == many
    larger = F.interpolate(inputs[0]["image"][None], (96, 144))[0]
    network = peak_bytes(model(), [{"image": larger}])
    sums = (CLASSES + 1 + 2) * 24 * 36 * 4
    # Adding a view takes a few maps more for a while; pictures are the largest of all tensors here.
    assert network < one <= network + 6 * sums + 3 * (3 * 96 * 144 * 4)
    # Pictures of a batch come one after the other; the last one's maps are in use meanwhile.
    assert peak((1.0, 1.5), pictures=3) <= few + sums

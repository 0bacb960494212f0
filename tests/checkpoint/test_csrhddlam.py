"""The importer's renaming and unpacking, on entries small enough to check by eye.

That whole layers and the network agree is tests/layers/test_golden.py's and
tests/modeling/test_axial_resnet.py's.
"""

import pytest
import torch

from axial_d2.checkpoint.csrhddlam import convert_attention, convert_state


def test_heads_are_unpacked() -> None:
    # Eight heads of one query, one key and two values each: 0 1 2 3 | 4 5 6 7 | ...
    (value,) = convert_attention("bn_qkv.weight", torch.arange(32)).values()
    assert value[:8].tolist() == [0, 4, 8, 12, 16, 20, 24, 28]
    assert value[8:16].tolist() == [1, 5, 9, 13, 17, 21, 25, 29]
    assert value[16:].tolist() == [x for q in range(0, 32, 4) for x in (q + 2, q + 3)]


def test_the_tables_come_apart_and_turn_round() -> None:
    # One query row, one key row, two value rows; three distances.
    tables = convert_attention("relative", torch.arange(12).view(4, 3))
    assert tables["query_table.weight"].tolist() == [[2], [1], [0]]
    assert tables["key_table.weight"].tolist() == [[3], [4], [5]]
    assert tables["value_table.weight"].tolist() == [[8, 11], [7, 10], [6, 9]]


def test_output_terms_come_apart_and_the_logits_shift_is_dropped() -> None:
    output = convert_attention("bn_output.bias", torch.arange(4))
    assert output["content_norm.bias"].tolist() == [0, 2]
    assert output["position_norm.bias"].tolist() == [1, 3]
    assert convert_attention("bn_similarity.bias", torch.zeros(24)) == {}


def test_names_of_a_net_and_of_a_block() -> None:
    one = torch.zeros(1)
    net = convert_state({"conv1.weight": one, "layer1.0.bn1.weight": one, "fc.bias": one})
    assert set(net) == {"stem.layers.0.weight", "res2.0.reduce_norm.weight", "fc.bias"}
    block = convert_state({"bn1.weight": one, "downsample.1.bias": one})
    assert set(block) == {"reduce_norm.weight", "shortcut.1.bias"}


def test_an_unknown_entry_is_named() -> None:
    with pytest.raises(ValueError, match=r"unknown entry 'bn_kqv.weight'"):
        convert_state({"hight_block.bn_kqv.weight": torch.zeros(8)})

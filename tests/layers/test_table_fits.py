"""Position tables of another length, loaded by torch alone."""

import logging

import pytest
import torch
from torch import nn

from axial_d2.layers import AxialAttention1d, FitsTablesOnLoad, RelativePositionTable
from axial_d2.layers.position_table import fit_table


def table(max_distance: int, depth: int = 1) -> RelativePositionTable:
    return RelativePositionTable(depth=depth, max_distance=max_distance, std=1.0)


def test_a_longer_table_repeats_the_ends_and_a_shorter_one_loses_them() -> None:
    rows = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0]])
    assert fit_table(rows, 9).flatten().tolist() == [1, 1, 1, 2, 3, 4, 5, 5, 5]
    assert fit_table(rows, 3).flatten().tolist() == [2, 3, 4]
    assert fit_table(rows, 1).flatten().tolist() == [3]
    assert torch.equal(fit_table(rows, 5), rows)


@pytest.mark.parametrize(("shape", "rows"), [((4, 1), 5), ((5, 1), 4), ((5,), 3), ((5, 1), -1)])
def test_even_lengths_are_refused(shape: tuple[int, ...], rows: int) -> None:
    with pytest.raises(ValueError, match="odd number of rows, and an odd number to give it; got"):
        fit_table(torch.zeros(shape), rows)


@pytest.mark.parametrize(("length", "max_distance"), [(5, 4), (5, 9), (9, 17)])
def test_a_longer_table_changes_no_output(length: int, max_distance: int, caplog) -> None:
    torch.manual_seed(0)
    options = {"in_channels": 6, "out_channels": 16, "axis": "width", "num_heads": 2}
    # Tables that reach less far than the strip is long: the end rows were in use already.
    short = AxialAttention1d(**options, max_distance=3).double().eval()
    other = AxialAttention1d(**options, max_distance=max_distance).double().eval()
    before = {name: value.clone() for name, value in short.state_dict().items()}
    state = short.state_dict()
    other.load_state_dict(state)
    x = torch.randn(2, 6, 3, length, dtype=torch.float64)
    torch.testing.assert_close(other(x), short(x), rtol=1e-12, atol=1e-12)
    # The caller's state dict stays as it was, and each table by itself is told of.
    assert all(torch.equal(before[name], state[name]) for name in before)
    assert [r.levelno for r in caplog.records] == [logging.WARNING] * 3
    told = f"1 position table of another length fitted (1 from 7 to {2 * max_distance + 1} rows): "
    assert all(r.getMessage().startswith(told) for r in caplog.records)


def test_a_shorter_table_changes_no_distance_that_it_has() -> None:
    long, short = table(6, depth=3), table(2, depth=3)
    short.load_state_dict(long.state_dict())
    assert torch.equal(short.weight, long.weight[4:9])


@pytest.mark.parametrize("shape", [(6, 1), (7, 2), (7,)])
def test_what_is_no_such_table_is_refused_by_torch(shape: tuple[int, ...], caplog) -> None:
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        table(4).load_state_dict({"weight": torch.zeros(shape)})
    assert not caplog.records


def test_equal_lengths_say_nothing(caplog) -> None:
    table(4).load_state_dict(table(4).state_dict())
    assert not caplog.records


def test_every_load_warns_again(caplog) -> None:
    model, state = nn.Sequential(table(4), table(4)), nn.Sequential(table(2), table(2)).state_dict()
    model.load_state_dict(state)
    model.load_state_dict(state)
    assert len(caplog.records) == 4


def test_a_model_tells_of_all_its_tables_in_one_warning(caplog) -> None:
    class Model(FitsTablesOnLoad):
        def __init__(self, *reaches: int) -> None:
            super().__init__()
            self.tables = nn.Sequential(*(table(reach) for reach in reaches))

    Model(9, 9, 9, 9).load_state_dict(Model(2, 2, 9, 15).state_dict())
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "3 position tables of another length fitted (2 from 5 to 19 rows, 1 from 31 to 19 rows): "
    )

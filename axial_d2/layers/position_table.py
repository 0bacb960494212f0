"""Learned relative positions, and how tables of another length are loaded."""

import logging
from collections import Counter
from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)


class FitsTablesOnLoad(nn.Module):
    """A module whose `load_state_dict` takes position tables of another length, with one warning.

    The warning is for all tables within the module, so it is the outermost module of this kind
    that gives it.
    """

    def _load_from_state_dict(
        self, state_dict: MutableMapping[str, Any], prefix: str, *args: Any
    ) -> None:
        # torch hands down copies of the dict, never the caller's own.
        warn_of_fitted_tables(fit_tables(self, state_dict, prefix))
        super()._load_from_state_dict(state_dict, prefix, *args)


class RelativePositionTable(FitsTablesOnLoad):
    """One learned vector per relative distance, shared by the heads of a layer.

    The length depends on neither the input's size nor the span: a checkpoint loads at any
    resolution, and distances beyond the table use its end rows. A table of another length is
    fitted when it is loaded, see `fit_table`.
    """

    def __init__(self, *, depth: int, max_distance: int, std: float) -> None:
        """Draws the vectors from a normal distribution.

        Args:
            depth: D, the length of each vector.
            max_distance: the largest distance with a row of its own; 2 * max_distance + 1 rows.
            std: standard deviation of the initial values.

        Raises:
            ValueError: depth or max_distance below 1.
        """
        super().__init__()
        if depth < 1 or max_distance < 1:
            raise ValueError(
                f"expected depth and max_distance of at least 1, got {depth} and {max_distance}"
            )
        self.weight = nn.Parameter(torch.empty(2 * max_distance + 1, depth))
        nn.init.normal_(self.weight, std=std)

    def forward(self) -> Tensor:
        """Returns the table, (2 * max_distance + 1, D), row `key - query + max_distance`."""
        return self.weight

    def extra_repr(self) -> str:
        rows, depth = self.weight.shape
        return f"rows={rows}, depth={depth}"


def fit_table(table: Tensor, rows: int) -> Tensor:
    """Gives a table another length, the zero offset staying in the middle.

    Nothing is interpolated. New rows repeat the end row, which is what distances beyond a table
    use anyway: a longer table gives the same attention as the one it came from, at any distance. A
    shorter one does as far as it reaches.

    Args:
        table: (R, D), R odd.
        rows: the length wanted, odd.

    Returns:
        (rows, D); the table itself where the length is right.

    Raises:
        ValueError: a table that is no matrix, or an even length, which has no middle.
    """
    if table.dim() != 2 or table.shape[0] % 2 == 0 or rows < 1 or rows % 2 == 0:
        raise ValueError(
            f"expected a table (rows, depth) with an odd number of rows, and an odd number to give "
            f"it; got {tuple(table.shape)} and {rows}"
        )
    extra = (rows - table.shape[0]) // 2
    if extra <= 0:
        return table[-extra : table.shape[0] + extra]
    return torch.cat([table[:1].expand(extra, -1), table, table[-1:].expand(extra, -1)])


def fit_tables(
    module: nn.Module, state: MutableMapping[str, Any], prefix: str = ""
) -> dict[str, tuple[int, int]]:
    """Gives the position tables in a state the lengths that a module's tables have, in place.

    A table of another depth or of an even length is left as it is, for the loading to refuse.

    Args:
        module: what the state is to be loaded into.
        state: by name.
        prefix: of the module's names in the state.

    Returns:
        By name the number of rows before and after, of the tables that were changed.
    """
    fitted = {}
    for name, table in module.named_modules():
        if not isinstance(table, RelativePositionTable):
            continue
        key = f"{prefix}{name}.weight" if name else f"{prefix}weight"
        came, (rows, depth) = state.get(key), table.weight.shape
        if not isinstance(came, Tensor) or came.dim() != 2 or came.shape[1] != depth:
            continue
        if came.shape[0] != rows and came.shape[0] % 2:
            state[key] = fit_table(came, rows)
            fitted[key] = (came.shape[0], rows)
    return fitted


def describe_fitted_tables(fitted: Mapping[str, tuple[int, int]]) -> str:
    """Says in one line how many tables changed their length, and how.

    Args:
        fitted: as `fit_tables` gives it, not empty.

    Returns:
        A sentence without a full stop.
    """
    counts = Counter(fitted.values())
    lengths = ", ".join(
        f"{count} from {before} to {after} rows"
        for (before, after), count in sorted(counts.items())
    )
    tables = "position table" if len(fitted) == 1 else "position tables"
    return (
        f"{len(fitted)} {tables} of another length fitted ({lengths}): the zero offset is aligned, "
        "new rows repeat the end row, rows beyond the length are cut"
    )


def warn_of_fitted_tables(fitted: Mapping[str, tuple[int, int]]) -> None:
    """Logs `describe_fitted_tables` as a warning; nothing where nothing was fitted."""
    if fitted:
        logger.warning(describe_fitted_tables(fitted))

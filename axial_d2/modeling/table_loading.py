"""Position tables of another length, for every checkpointer that is built on fvcore's."""

import functools
from typing import Any

from fvcore.common import checkpoint as fvcore_checkpoint

from axial_d2.layers.position_table import (
    RelativePositionTable,
    fit_tables,
    warn_of_fitted_tables,
)


def fit_tables_in_checkpointers() -> None:
    """Has fvcore's `Checkpointer` fit position tables before it compares shapes.

    It drops a tensor of another shape before the module that could fit it is asked, and
    DefaultPredictor, DefaultTrainer and a user's own script make their checkpointers themselves.
    Models without such a table are left alone. Needed until fvcore asks the modules.
    """
    load_model = fvcore_checkpoint.Checkpointer._load_model
    if hasattr(load_model, "fits_tables"):
        return

    @functools.wraps(load_model)
    def fit_and_load(self: fvcore_checkpoint.Checkpointer, checkpoint: dict[str, Any]) -> Any:
        if any(isinstance(module, RelativePositionTable) for module in self.model.modules()):
            state = checkpoint["model"]
            # Both as the original does next.
            self._convert_ndarray_to_tensor(state)
            fvcore_checkpoint._strip_prefix_if_present(state, "module.")
            warn_of_fitted_tables(fit_tables(self.model, state))
        return load_model(self, checkpoint)

    fit_and_load.fits_tables = True
    fvcore_checkpoint.Checkpointer._load_model = fit_and_load

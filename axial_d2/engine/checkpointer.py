"""Loading of weights with one report, and weights of another model told from this one's."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from fvcore.common.checkpoint import _strip_prefix_if_present
from torch import nn

from axial_d2.engine.errors import SetupError
from axial_d2.engine.loading_report import (
    LoadingReport,
    Shapes,
    differing_facts,
    foreign_stem,
)
from axial_d2.layers.position_table import fit_tables

logger = logging.getLogger(__name__)

# Under which a checkpoint carries the settings that its tensors do not show.
FACTS = "axial_d2"


class Checkpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, with one report, except that nothing fitting is an error.

    Detectron2 warns of every tensor that it leaves out and goes on with random weights. That is
    right for a file with a backbone alone, and never for a file with nothing that fits. Position
    tables of another length are fitted, and a stem of another kind is left out whole.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        facts: Mapping[str, object] | None = None,
        **kwargs: Any,
    ) -> None:
        """Knows the model and where to save it.

        Args:
            model: to load into and to save.
            save_dir: folder of the checkpoints.
            facts: `network_facts` of the config, saved and compared with those of a file.
            **kwargs: as Detectron2 has them.
        """
        super().__init__(model, save_dir, **kwargs)
        self._facts = dict(facts or {})
        self._resumes = False
        self._report: LoadingReport | None = None

    def _load_file(self, filename: str) -> dict[str, Any]:
        try:
            loaded = super()._load_file(filename)
        except Exception as error:  # A pickle can fail in any way.
            lines = str(error).splitlines() or [""]
            raise SetupError(
                f"expected a file of weights, which this is not: {type(error).__name__}: {lines[0]}"
            ) from error
        state = loaded["model"]
        if not loaded.get("matching_heuristics"):
            _check_tensors(state)
        return loaded

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        if checkpoint.get("matching_heuristics"):
            # Its names are not the model's; Detectron2 matches them, and tells of it.
            self._report = None
            return super()._load_model(checkpoint)
        state = checkpoint["model"]
        # Both as fvcore does next; in place, as the dict carries the modules' versions.
        self._convert_ndarray_to_tensor(state)
        _strip_prefix_if_present(state, "module.")
        model = _shapes(self.model.state_dict())
        fitted = fit_tables(self.model, state)
        self._refuse_to_resume_with(fitted, checkpoint)
        file = _shapes(state)
        withheld = foreign_stem(file, model)
        for name in withheld:
            del state[name]
        incompatible = super()._load_model(checkpoint)
        loaded = {name for name in file.keys() - withheld if model.get(name) == file[name]}
        if not loaded:
            example = " ".join(map(str, next(iter(file.items()), ["none"])))
            raise SetupError(
                f"weights of another model: none of the {len(file)} tensors in the file "
                f"({example}, ...) has the name and shape of one of the {len(model)} of this model"
            )
        # What a model takes on trust where a file lacks it, such as the mean of the pixels.
        missing = set(incompatible.missing_keys)
        model = {k: v for k, v in model.items() if k in file or k in missing}
        differing = differing_facts(checkpoint.get(FACTS) or {}, self._facts)
        self._report = LoadingReport(model, file, loaded, fitted, withheld, differing)
        return incompatible

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        if self._report is None:
            super()._log_incompatible_keys(incompatible)
            return
        level = logging.INFO if self._report.harmless else logging.WARNING
        logger.log(level, "Weights: %s", self._report.text())

    def _refuse_to_resume_with(
        self, fitted: Mapping[str, tuple[int, int]], checkpoint: Mapping[str, Any]
    ) -> None:
        if fitted and self._resumes and any(key in checkpoint for key in self.checkpointables):
            before, after = next(iter(fitted.values()))
            raise SetupError(
                f"MODEL.AXIAL_RESNET.MAX_DISTANCE: expected {before // 2}, with which the training "
                f"began (the optimiser's state is of that length), got {after // 2}. MODEL.WEIGHTS "
                "instead of --resume starts anew from these weights"
            )

    def save(self, name: str, **kwargs: Any) -> None:
        """Writes a checkpoint that carries the facts too.

        Args:
            name: of the file, without its ending.
            **kwargs: what else to write.
        """
        facts = {FACTS: self._facts} if self._facts else {}
        super().save(name, **(facts | kwargs))

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Loads a checkpoint and reports what of it was used.

        Args:
            path: file or address; empty for none.
            checkpointables: which of the states beside the model's to load; None for all.

        Returns:
            What the file holds beyond the states of model and trainer.

        Raises:
            SetupError: the file holds no weights, or none that fits the model; or a training is
                resumed with position tables of another length.
        """
        self._resumes = checkpointables is None
        try:
            return super().load(path, checkpointables)
        except SetupError as error:
            raise SetupError(f"{path}: {error}") from error


def _check_tensors(state: Any) -> None:
    """Refuses what another program may have saved instead of tensors by name."""
    expected = "expected a file with tensors by name, or with such a mapping as its 'model'"
    if not isinstance(state, Mapping):
        raise SetupError(f"{expected}; got a {type(state).__name__}")
    for name, value in state.items():
        if not isinstance(value, torch.Tensor | np.ndarray):
            raise SetupError(
                f"{expected}; got {name!r}, a {type(value).__name__}. Checkpoints of "
                "csrhddlam/axial-deeplab are for tools/convert_checkpoint.py first"
            )


def _shapes(state: Mapping[str, Any]) -> Shapes:
    return {name: tuple(value.shape) for name, value in state.items()}


def last_checkpoint(output_dir: str) -> str | None:
    """The checkpoint that --resume would take.

    Args:
        output_dir: OUTPUT_DIR of a training.

    Returns:
        Its path, or None where there is none.
    """
    try:
        name = Path(output_dir, "last_checkpoint").read_text().strip()
    except OSError:
        return None
    path = os.path.join(output_dir, name)
    return path if os.path.isfile(path) else None

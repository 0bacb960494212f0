"""Loading of weights that tells a file of another model from one of this."""

import os
from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer

from axial_d2.engine.errors import SetupError


class Checkpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, except that a file of which nothing fits is an error.

    Detectron2 warns of every tensor that it leaves out and goes on with random weights. That is
    right for a file with a backbone alone, and never for a file with nothing that fits.
    """

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        in_file = dict(checkpoint["model"])
        incompatible = super()._load_model(checkpoint)
        wrong = {name for name, *_ in incompatible.incorrect_shapes}
        fitting = in_file.keys() - wrong - set(incompatible.unexpected_keys)
        if not fitting and "matching_heuristics" not in checkpoint:
            name, example = next(iter(in_file.items()), ("none", None))
            shape = f" {tuple(example.shape)}" if hasattr(example, "shape") else ""
            raise SetupError(
                f"weights of another model: none of the {len(in_file)} tensors in the file "
                f"({name}{shape}, ...) has the name and shape of one of the "
                f"{len(self.model.state_dict())} of this model"
            )
        return incompatible

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Loads a checkpoint.

        Args:
            path: file or address; empty for none.
            *args: as Detectron2 has them.
            **kwargs: as Detectron2 has them.

        Returns:
            What the file holds beyond the states of model and trainer.

        Raises:
            SetupError: nothing in the file fits the model.
        """
        try:
            return super().load(path, *args, **kwargs)
        except SetupError as error:
            raise SetupError(f"{path}: {error}") from error


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

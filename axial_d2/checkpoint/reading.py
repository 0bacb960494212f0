"""Other projects' checkpoint files, read without running code that they may carry."""

import os
import pickle
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# What training scripts call the weights in their checkpoints; the public implementation's: "net".
_CONTAINERS = ("net", "state_dict", "model", "model_state_dict")


def read_state(path: str | os.PathLike) -> dict[str, Tensor]:
    """Reads the weights of a file that `torch.save` wrote.

    Args:
        path: a state dict, or a dict that holds one as "net", "state_dict", "model" or
            "model_state_dict" beside the optimiser's state and the like. Names may begin with the
            "module." that DataParallel puts before them.

    Returns:
        On the CPU, by name, without "module.".

    Raises:
        ValueError: no such file, one that torch cannot read, one that holds more than tensors and
            plain values, or none with weights by name. The message names the file.
    """
    loaded = _load(path)
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path}: expected a dict of weights, got a {type(loaded).__name__}")
    inside = [name for name in _CONTAINERS if isinstance(loaded.get(name), Mapping)]
    state = loaded[inside[0]] if inside else loaded
    foreign = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if foreign or not state:
        raise ValueError(
            f"{path}: expected tensors by name, or a dict with such weights under one of "
            f"{', '.join(_CONTAINERS)}; got {', '.join(map(str, foreign)) or 'nothing'}"
        )
    state = {str(name): value for name, value in state.items()}
    while all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def _load(path: str | os.PathLike) -> Any:
    if not os.path.isfile(path):
        what = "a folder" if os.path.isdir(path) else "no such file"
        raise ValueError(f"{path}: expected a checkpoint, got {what}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        kind = re.search(r"GLOBAL (\S+)", str(error))
        if kind:
            raise ValueError(
                f"{path}: holds more than tensors and plain values ({kind[1]}), and reading that "
                "would run code of the file. Where you trust it, save its weights alone with "
                'torch.save({"net": model.state_dict()}, FILE)'
            ) from error
        raise ValueError(f"{path}: expected a file that torch.save wrote, got another") from error
    except Exception as error:  # Bytes that are no pickle may raise anything, says Python's manual.
        raise ValueError(
            f"{path}: expected a file that torch.save wrote, got one that torch cannot read "
            f"({type(error).__name__})"
        ) from error

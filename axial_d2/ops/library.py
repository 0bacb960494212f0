"""Where the operators are defined that `torch.compile` takes as they are: `torch.ops.axial_d2`."""

import torch

LIBRARY = torch.library.Library("axial_d2", "DEF")

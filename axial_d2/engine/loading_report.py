"""What of a checkpoint was used and what of the model was not in it, in one report."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from detectron2.config import CfgNode

from axial_d2.layers.position_table import describe_fitted_tables

Shapes = Mapping[str, tuple[int, ...]]

# A norm's count of batches changes no result, and frozen norms have none.
_COUNTER = "num_batches_tracked"
# Keys that change what a network computes, or what it expects of its pictures, and that the shapes
# of its tensors do not show.
_FACTS = (
    "MODEL.AXIAL_RESNET.STRIDE",
    "MODEL.AXIAL_RESNET.OUTPUT_STRIDE",
    "MODEL.AXIAL_RESNET.SPAN",
    "MODEL.AXIAL_RESNET.STEM_SPAN",
    "INPUT.FORMAT",
    "MODEL.PIXEL_MEAN",
    "MODEL.PIXEL_STD",
)


def network_facts(cfg: CfgNode) -> dict[str, object]:
    """The settings of a network that a checkpoint should carry, as its tensors do not show them.

    Args:
        cfg: the whole config.

    Returns:
        Values by full key; nothing of `MODEL.AXIAL_RESNET` for another backbone.
    """
    axial = cfg.MODEL.BACKBONE.NAME == "build_axial_resnet_backbone"
    facts: dict[str, object] = {}
    for key in _FACTS:
        if axial or not key.startswith("MODEL.AXIAL_RESNET."):
            value: object = cfg
            for name in key.split("."):
                value = value[name]
            facts[key] = list(value) if isinstance(value, list | tuple) else value
    return facts


@dataclass
class LoadingReport:
    """What a loading did, by the names and shapes of both sides.

    Attributes:
        model: shapes of the model's tensors.
        file: shapes of the file's, position tables as they were fitted.
        loaded: names of the tensors that the model has from the file.
        fitted: position tables among them that changed their length, as `fit_tables` says.
        withheld: names of tensors of a stem that was left out whole.
        differing: "KEY X in the file, Y here" for settings of which the two differ.
    """

    model: Shapes
    file: Shapes
    loaded: set[str]
    fitted: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    withheld: set[str] = field(default_factory=set)
    differing: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether the file gave the model all it has, as it was, with nothing left over."""
        return not (
            _counted(self.model.keys() ^ self.file.keys())
            or _counted(self.model.keys() - self.loaded)
            or self.fitted
            or self.differing
        )

    @property
    def harmless(self) -> bool:
        """Whether the model has all it needs as it was, though the file may hold more."""
        return not (_counted(self.model.keys() - self.loaded) or self.fitted or self.differing)

    def text(self) -> str:
        """The report: one line where all fits, else a line per part of the model and the file."""
        wanted = _counted(self.model)
        loaded = sum(name in self.loaded for name in wanted)
        if self.complete:
            return f"all {len(wanted)} tensors of the model were in the file"
        lines = [f"{loaded} of the {len(wanted)} tensors of this model were loaded"]
        for part in dict.fromkeys(_part(name) for name in [*self.model, *self.file]):
            lines.append(f"  {part}: {self._part_text(part)}")
        if self.fitted:
            lines.append(f"  {describe_fitted_tables(self.fitted)}")
        if self.differing:
            lines.append(
                "  set otherwise where these weights were trained, which their shapes do not show: "
                + "; ".join(self.differing)
            )
        return "\n".join(lines)

    def _shapes_of(self, name: str) -> str:
        here = self.model.get(name, "not")
        return f"{name}: {self.file[name]} in the file, {here} here"

    def _part_text(self, part: str) -> str:
        model = [name for name in _counted(self.model) if _part(name) == part]
        file = [name for name in _counted(self.file) if _part(name) == part]
        if not model:
            return f"not in this model, {len(file)} of the file's tensors are not used"
        loaded = sum(name in self.loaded for name in model)
        text = [f"{loaded} of {len(model)} tensors loaded"]
        reshaped = [n for n in file if n in self.model and self.file[n] != self.model[n]]
        left = [name for name in file if name not in self.model]
        if self.withheld & set(file):
            other = self._shapes_of((reshaped or left)[0])
            return f"{text[0]}: the file's stem is another one ({other}), none of it is used"
        missing = [name for name in model if name not in self.file]
        if missing:
            text.append(
                f"{len(missing)} not in the file, which keep their initial values{_some(missing)}"
            )
        if reshaped:
            text.append(f"{len(reshaped)} of another shape ({self._shapes_of(reshaped[0])})")
        if left:
            text.append(f"{len(left)} in the file that this model has not{_some(left)}")
        return "; ".join(text)


def differing_facts(file: Mapping[str, object], here: Mapping[str, object]) -> list[str]:
    """Compares the settings that a file carries with the config's.

    Args:
        file: from the checkpoint, as `network_facts` gives them.
        here: of this config.

    Returns:
        "KEY X in the file, Y here" for each of which both tell, and that differ.
    """
    return [
        f"{key} {file[key]} in the file, {value} here"
        for key, value in here.items()
        if key in file and file[key] != value
    ]


def foreign_stem(file: Shapes, model: Shapes) -> set[str]:
    """Finds the tensors of a stem of another kind, of which nothing should be loaded.

    Some of its norms may have the names and shapes of this model's, but their statistics belong to
    the file's convolutions.

    Args:
        file: shapes by name.
        model: the same.

    Returns:
        Names in the file; none where each of the file's stem's convolutions is the model's too.
    """
    stem = {name for name in file if "stem" in name.split(".")}
    convolutions = {name for name in stem if len(file[name]) == 4}
    return stem if any(model.get(name) != file[name] for name in convolutions) else set()


def _part(name: str) -> str:
    """The first word of a name, two of the backbone's."""
    words = name.split(".")
    return ".".join(words[: 2 if words[0] == "backbone" and len(words) > 2 else 1])


def _counted(names: Iterable[str]) -> list[str]:
    return [name for name in names if not name.endswith(_COUNTER)]


def _some(names: list[str]) -> str:
    """Names them where they are few."""
    return f" ({', '.join(names)})" if len(names) <= 3 else ""

"""The classes of your own dataset from a small yaml file.

.. code-block:: yaml

    classes:
      - {name: road, type: stuff, value: 0, color: [128, 64, 128]}
      - {name: car,  type: thing, value: 1}
    void: [255]
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from .coco_panoptic import IGNORE_LABEL, generated_color, panoptic_metadata
from .own import EVALUATOR_TYPE, PathLike, full_path

_KEYS = ("name", "type", "value", "color")
_TYPES = ("thing", "stuff")
# Masks have 8 bits, mostly; 16 leave room for those that do not.
_MAX_VALUE = 2**16 - 1

_RIGHT_FORM = """The right form is

classes:
  - {name: road, type: stuff, value: 0, color: [128, 64, 128]}
  - {name: car,  type: thing, value: 1}
void: [255]

type: thing (has instances) or stuff; value: its value in the semantic masks, by default its place
in the list, from 0 on; color: [red, green, blue], made up where there is none; void: values without
a class, by default 255."""


class ListedClass(NamedTuple):
    """One class of the list.

    Attributes:
        name: of the class.
        isthing: whether it has instances.
        value: in the semantic masks.
        color: red, green, blue, 0 to 255.
    """

    name: str
    isthing: bool
    value: int
    color: tuple[int, int, int]


class ClassList(NamedTuple):
    """What a yaml file of classes says: the classes in its order, and the values of void."""

    classes: tuple[ListedClass, ...]
    void: tuple[int, ...]

    def metadata(self) -> dict[str, Any]:
        """Detectron2's fields and ``semantic_values``: contiguous id by value, -1 for void."""
        values = dict.fromkeys(self.void, -1)
        values.update({each.value: index for index, each in enumerate(self.classes)})
        categories = [
            {"id": each.value, "name": each.name, "isthing": each.isthing, "color": each.color}
            for each in self.classes
        ]
        return {
            **panoptic_metadata(categories),
            "evaluator_type": EVALUATOR_TYPE,
            "semantic_values": values,
        }


def read_class_list(path: PathLike) -> ClassList:
    """Reads a yaml file of classes.

    Args:
        path: the file. ``~`` is expanded, relative paths start from the current directory.

    Returns:
        Its classes.

    Raises:
        ValueError: the file is missing, is not yaml, or says something else than classes. One error
            tells all the mistakes and shows the right form.
    """
    path = full_path(path)
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except OSError as error:
        raise ValueError(f"cannot read the classes {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a yaml file: {error}") from error
    problems = _problems(content)
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise ValueError(f"the classes in {path} are not right:\n{listed}\n{_RIGHT_FORM}")
    classes = tuple(
        ListedClass(
            entry["name"],
            entry["type"] == "thing",
            entry.get("value", index),
            tuple(entry.get("color", generated_color(index))),
        )
        for index, entry in enumerate(content["classes"])
    )
    return ClassList(classes, tuple(_void(content)))


def _void(content: Mapping[str, Any]) -> Sequence[Any]:
    given = content.get("void")
    return [IGNORE_LABEL] if given is None else given


def _problems(content: Any) -> list[str]:
    """The mistakes of a class list, in words."""
    if not isinstance(content, Mapping) or not isinstance(content.get("classes"), list):
        came = sorted(map(str, content)) if isinstance(content, Mapping) else repr(content)
        return [f"expected a list under the key 'classes', came {came}"]
    problems = [
        f"expected the keys classes and void, came {key!r} too"
        for key in content
        if key not in ("classes", "void")
    ]
    classes, void = content["classes"], _void(content)
    if not 0 < len(classes) <= IGNORE_LABEL:
        problems.append(f"expected 1 to {IGNORE_LABEL} classes, came {len(classes)}")
    for index, entry in enumerate(classes):
        problems += [f"class {index + 1}: {text}" for text in _class_problems(entry)]
    if not isinstance(void, list) or not all(map(_is_value, void)):
        problems.append(f"void: expected a list of values 0 to {_MAX_VALUE}, came {void!r}")
        void = []
    return problems or _repeated(classes, void)


def _class_problems(entry: Any) -> list[str]:
    if not isinstance(entry, Mapping):
        return [f"expected a mapping with {', '.join(_KEYS)}, came {entry!r}"]
    problems = [
        f"expected {', '.join(_KEYS)}, came {key!r} too" for key in entry if key not in _KEYS
    ]
    if not isinstance(entry.get("name"), str) or not entry["name"]:
        problems.append(f"name: expected a text, came {entry.get('name')!r}")
    if entry.get("type") not in _TYPES:
        problems.append(f"type: expected thing or stuff, came {entry.get('type')!r}")
    if not _is_value(entry.get("value", 0)):
        problems.append(f"value: expected 0 to {_MAX_VALUE}, came {entry['value']!r}")
    color = entry.get("color", [0, 0, 0])
    if not (isinstance(color, list) and len(color) == 3 and all(_is_value(c, 255) for c in color)):
        problems.append(f"color: expected [red, green, blue], each 0 to 255, came {color!r}")
    return problems


def _repeated(classes: Sequence[Mapping[str, Any]], void: Sequence[int]) -> list[str]:
    """Names and values that are not unique."""
    problems = []
    names: dict[str, int] = {}
    values: dict[int, str] = dict.fromkeys(void, "void")
    for index, entry in enumerate(classes):
        name, value = entry["name"], entry.get("value", index)
        if name in names:
            problems.append(f"the name {name!r} occurs twice, expected once")
        if value in values:
            problems.append(f"{name!r} has the value {value}, which {values[value]!r} has too")
        names[name] = index
        values.setdefault(value, name)
    return problems


def _is_value(value: Any, largest: int = _MAX_VALUE) -> bool:
    return type(value) is int and 0 <= value <= largest

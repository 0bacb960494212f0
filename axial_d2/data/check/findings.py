"""What a check finds: kinds of faults, counted, with the first examples of each."""

from collections.abc import Iterable
from typing import Any

Finding = tuple[str, str]  # kind of fault, and what was expected and what came

#: Worth a look; training can start all the same.
WARNINGS = frozenset(
    {
        "box that differs from the pixels",
        "category that is never used",
        "class without a segment",
        "file that no json names",
        "instance without pixels",
        "mask without a picture",
        "picture without any thing",
        "picture without any segment",
        "picture that is mostly void",
        "stuff class with several segments in a picture",
        "stuff segment that is a crowd",
        "tiny instance",
        "picture that another dataset has too",
        "picture that occurs twice",
    }
)
#: Training cannot go on over these, checked or not.
FATAL = frozenset(
    {
        "the dataset cannot be loaded",
        "picture that is missing",
        "png that is missing",
        "mask that is missing",
        "picture that cannot be read",
        "png that cannot be read",
        "truth that cannot be read",
        "class folder without a picture",
    }
)
EXAMPLES = 3


def describe(error: Exception) -> str:
    """An error in words, with its type where the words alone do not tell (as a KeyError's).

    Args:
        error: that was raised; an OSError without the file's name, which the message has already.
    """
    text = getattr(error, "strerror", None) or str(error)
    if text and isinstance(error, AssertionError | OSError | SyntaxError | ValueError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class Tally:
    """Findings by kind: how many, and the first few; so that many pictures need little memory."""

    def __init__(self, findings: Iterable[Finding] = (), *, examples: int = EXAMPLES):
        """
        Args:
            findings: to begin with.
            examples: how many of a kind are kept.
        """
        self._examples = examples
        self.counts: dict[str, int] = {}
        self.texts: dict[str, list[str]] = {}
        self.add(findings)

    def add(self, findings: Iterable[Finding]) -> None:
        """Counts findings.

        Args:
            findings: kind and text of each.
        """
        for kind, text in findings:
            self.add_one(kind, text)

    def add_one(self, kind: str, text: str) -> None:
        """Counts a finding.

        Args:
            kind: of fault.
            text: what was expected and what came.
        """
        self.counts[kind] = self.counts.get(kind, 0) + 1
        texts = self.texts.setdefault(kind, [])
        if len(texts) < self._examples:
            texts.append(text)

    def kinds(self, *, warnings: bool) -> list[str]:
        """The kinds found, in their order of appearance.

        Args:
            warnings: those of `WARNINGS`, or all others.
        """
        return [kind for kind in self.counts if (kind in WARNINGS) == warnings]

    def lines(self, kinds: Iterable[str]) -> list[str]:
        """A line for each kind, and its examples below it."""
        lines = []
        for kind in kinds:
            count = self.counts[kind]
            lines.append(f"  {kind}: {count} time{'s' * (count > 1)}")
            lines += [f"    {text}" for text in self.texts[kind]]
            if count > len(self.texts[kind]):
                lines.append(f"    ... and {count - len(self.texts[kind])} more")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """For a json: per kind whether it is a warning, its count and examples."""
        return {
            kind: {"warning": kind in WARNINGS, "count": count, "examples": self.texts[kind]}
            for kind, count in self.counts.items()
        }

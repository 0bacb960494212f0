"""Mistakes of users, told in words."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from detectron2.evaluation import DatasetEvaluator

# How torch hands over an error of a loader's worker: with the traceback before the text.
_FROM_WORKER = "Caught SetupError in DataLoader worker"


class SetupError(ValueError):
    """Something given to a command is wrong: an argument, a config key, a file, a dataset.

    Its message is one that stands alone: what was wrong, what was expected, what came. The commands
    print it without a traceback and end with exit code 1.
    """

    def __str__(self) -> str:
        text = super().__str__()
        if text.startswith(_FROM_WORKER):
            _, _, text = text.rpartition(f"{type(self).__name__}: ")
        return text.rstrip()


class ClearErrors:
    """A mapper whose errors of data are `SetupError`s; works in a loader's worker too."""

    def __init__(self, mapper: Callable[[dict[str, Any]], dict[str, Any]]):
        """
        Args:
            mapper: from dataset dict to the model's input; raises a ValueError or an OSError that
                names the file where one is not right.
        """
        self._mapper = mapper

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """As the mapper.

        Raises:
            SetupError: the data are not right.
        """
        try:
            return self._mapper(record)
        except (ValueError, OSError) as error:
            raise SetupError(str(error)) from error


class ClearEvaluatorErrors(DatasetEvaluator):
    """Evaluators whose errors of data are `SetupError`s."""

    def __init__(self, evaluator: DatasetEvaluator):
        """
        Args:
            evaluator: or several; raises a ValueError or an OSError that names the file where the
                truth is not right.
        """
        self._evaluator = evaluator

    def reset(self) -> None:
        self._told(self._evaluator.reset)

    def process(self, inputs: Sequence[Mapping], outputs: Sequence[Mapping]) -> None:
        """As the evaluator.

        Raises:
            SetupError: the data are not right.
        """
        self._told(self._evaluator.process, inputs, outputs)

    def evaluate(self) -> Any:
        return self._told(self._evaluator.evaluate)

    @staticmethod
    def _told(do: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return do(*arguments)
        except (ValueError, OSError) as error:
            raise SetupError(str(error)) from error

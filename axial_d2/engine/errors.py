"""The error that a user can mend."""


class SetupError(ValueError):
    """Something given to a command is wrong: an argument, a config key, a file, a dataset.

    Its message is one that stands alone: what was wrong, what was expected, what came. The commands
    print it without a traceback and end with exit code 1.
    """

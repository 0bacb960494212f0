"""Writing of files."""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[str]:
    """Makes a file appear whole or not at all, whatever breaks off the writing.

    Args:
        path: of the file; one that is there stays until the new one is complete.

    Yields:
        Where to write it.
    """
    part = f"{os.fspath(path)}.part"
    try:
        yield part
        os.replace(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(part)

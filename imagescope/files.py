"""Files that are written whole or not at all: a reader never meets half of one."""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

UMASK = os.umask(0o022)  # looked up once: to ask is to set it, for all threads
os.umask(UMASK)


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """A file opened for reading bytes. Raises OSError, also for what is no regular file: a pipe
    would wait for a writer for ever, a device might do anything."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a directory", os.fspath(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return open(path, "rb")


@contextmanager
def replacing(path: Path, durable: bool = True, mode: int = 0o666) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place at the end, or goes after an error.

    durable: it outlives a power failure, too: content and name are on the disk when this returns.
        What can be made again in a moment (a thumbnail) need not wait for the disk.
    mode: who may read and write it, less the process's umask.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, mode & ~UMASK)
        if durable:  # the content first: a name must not outlive a crash that its content did not
            _to_disk(name, os.O_RDWR)
        os.replace(name, path)
        if durable:
            with suppress(OSError):  # not every system opens folders
                _to_disk(path.parent, os.O_RDONLY)
    finally:
        Path(name).unlink(missing_ok=True)


def _to_disk(path: str | Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str | Iterable[str], durable: bool = True) -> None:
    """UTF-8, in one piece or many; lone surrogates become question marks."""
    with (
        replacing(path, durable) as part,
        part.open("w", encoding="utf-8", errors="replace") as file,
    ):
        file.writelines([text] if isinstance(text, str) else text)


def write_json(path: Path, value: Any, indent: int | None = 2, durable: bool = True) -> None:
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False), durable)


def parse_json(text: str | bytes) -> Any:
    """A JSON value out of text from anywhere. Raises ValueError for what is none, nesting that is
    too deep included."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None

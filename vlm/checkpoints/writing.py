"""New directories that are whole or do not exist: written beside, flushed to the disk, then given their name."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vlm.checkpoints.files import CheckpointError


def refuse_existing(output: str) -> None:
    """CheckpointError if there is something at ``output``: to be told before anything is loaded."""
    if Path(output).exists():
        raise CheckpointError(f"{output}: exists already")


@contextmanager
def new_directory(output: str) -> Iterator[Path]:
    """A directory to write into; it becomes ``output`` when the block ends without an error.

    Raises:
        OSError: for whatever stopped the writing, one line that names ``output``; nothing of it is left.
    """
    target = Path(output)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
        flush(partial)
        partial.rename(target)
    except Exception as error:  # torch, safetensors and tokenizers each have a class of their own for a full disk
        shutil.rmtree(partial, ignore_errors=True)
        raise not_saved(target, error) from error
    sync(target.parent)  # the new name itself


def not_saved(target: Path, error: Exception) -> OSError:
    """Whatever stopped the writing of ``target``, in one line that names it."""
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return OSError(f"{target}: could not be saved ({said})")


def flush(directory: Path) -> None:
    """Have the disk hold every file of a directory."""
    for path in directory.rglob("*"):
        if path.is_file():
            sync(path)


def sync(path: Path) -> None:
    """Have the disk hold a file's content, or a directory's names."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)

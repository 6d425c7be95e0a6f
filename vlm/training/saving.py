"""Directories that are whole or do not exist: written beside, flushed to the disk, then given their name.

A write that fails, on a full disk above all, takes its own remains away: what was saved before still stands, and the
next try has the room.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, nn

from vlm.checkpoints.writing import flush, not_saved, sync

PARTIAL = ".partial"  # the folder that holds what is being written


@contextmanager
def written_whole(target: Path, renames: bool = True) -> Iterator[Path]:
    """A directory to write into; it becomes ``target`` when the block ends without an error.

    Args:
        renames: whether this process flushes it and gives it its name. Of several that write into it one does.

    Raises:
        OSError: for whatever stopped the writing, one line that names ``target``.
    """
    partial = target.parent / PARTIAL / target.name
    try:
        partial.mkdir(parents=True, exist_ok=True)
        yield partial
        if renames:
            flush(partial)
    except Exception as error:  # torch, safetensors and tokenizers each have a class of their own for a full disk
        shutil.rmtree(partial, ignore_errors=True)
        raise not_saved(target, error) from error
    if renames:
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        sync(target.parent)  # the new name itself


def each_once(model: nn.Module, gathered: dict[str, Tensor] | None) -> dict[str, Tensor] | None:
    """Gathered weights without a second tensor for what ``model`` ties: sharding takes such a pair apart."""
    ties = getattr(model, "all_tied_weights_keys", {})
    return gathered and {name: tensor for name, tensor in gathered.items() if ties.get(name) not in gathered}

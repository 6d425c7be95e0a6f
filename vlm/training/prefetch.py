"""Calls made ahead by worker processes, their results in order; and batches ready to be copied to a GPU.

The deciding choice: what is shared out among workers is single calls, and results come in the order of the calls. So
the number of workers changes how fast samples come and nothing else: not their order, not how a run resumes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

A, T = TypeVar("A"), TypeVar("T")


def in_order(function: Callable[[A], T], arguments: Iterable[A], workers: int, ahead: int) -> Iterator[T]:
    """``function`` of every argument, in their order.

    Args:
        function: may keep state of its own; each worker has a copy, and gives it every ``workers``-th argument.
        arguments: may be endless; they are told to the workers in pickles.
        workers: processes; with 0 every call is made when its result is asked for.
        ahead: calls that are made before their results are asked for, rounded up to a multiple of ``workers``. When
            so many results wait, the workers do too.
    """
    if workers == 0:
        return map(function, arguments)
    loader = DataLoader(
        _Calls(function),
        sampler=arguments,
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_is,
        prefetch_factor=max(1, -(-ahead // workers)),
        generator=torch.Generator(),  # else it draws a number from the one that dropout draws from
    )
    return iter(loader)


def pinned(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch in memory that a GPU reads by itself, so that its copy runs beside other work; on a CPU as it is."""
    if device.type != "cuda":
        return batch
    return {name: _pinned(item) for name, item in batch.items()}


def _pinned(item: Any) -> Any:
    """What can be pinned, also in a dictionary, as PyTorch's own loader does it; anything else as it is."""
    if isinstance(item, Mapping):
        return {name: _pinned(value) for name, value in item.items()}
    return item.pin_memory() if hasattr(item, "pin_memory") else item


class _Calls(Dataset):
    """A function as a data set."""

    def __init__(self, function: Callable[[A], T]):
        self.function = function

    def __getitem__(self, argument: A) -> T:
        return self.function(argument)


def _as_is(result):
    return result

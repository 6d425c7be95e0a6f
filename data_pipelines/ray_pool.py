"""Preparing on Ray Data, from this machine to a cluster whose machines see the same folders (extra: ``ray``).

``RAY_ADDRESS`` names a cluster that runs already; without it Ray starts on this machine.

The deciding choice: what is sent to a worker is a name and data, the name of `outcome_of` and two numbers a stretch.
Functions that a command defines itself, as ``__main__``, are not found where only the package is.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from data_pipelines.errors import DataError
from data_pipelines.preparation import Outcome, Preparation, prepare_stretch


def prepared_on_ray(task: Preparation, work: list[tuple[int, int]]) -> Iterator[Outcome]:
    """What came of every stretch, in their order.

    Raises:
        DataError: Ray is not installed, a worker cannot read the source, or Ray itself fails.
    """
    try:
        import ray.data
    except ImportError as error:
        raise DataError('--ray needs Ray Data: pip install "block-diffusion-vlm[ray]"') from error
    if not ray.is_initialized():
        ray.init(logging_level="warning", include_dashboard=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars, context.execution_options.preserve_order = False, True
    rows = [{"first": first, "stop": stop} for first, stop in work]
    found = ray.data.from_items(rows, override_num_blocks=max(1, len(rows)))
    try:
        for row in found.map(partial(outcome_of, everywhere(task))).iter_rows():
            yield _outcome(json.loads(row["outcome"]))
    except ray.exceptions.RayError as error:
        raise DataError(f"Ray failed: {' '.join(str(error).split())[:300]}") from error


def everywhere(task: Preparation) -> Preparation:
    """The task with paths that do not depend on where a process was started."""
    given = {name: getattr(task, name) for name in ("source", "output", "media_root", "model")}
    local = {name: value for name, value in given.items() if value and (name != "model" or os.path.exists(value))}
    return replace(task, **{name: os.path.abspath(value) for name, value in local.items()})


def outcome_of(task: Preparation, row: dict[str, int]) -> dict[str, str]:
    """One stretch, by a worker. As JSON, because Ray's tables know neither counters nor ragged lists."""
    try:
        said = vars(prepare_stretch(task, (row["first"], row["stop"])))
    except (DataError, OSError) as error:  # else Ray wraps it into pages of its own
        said = {"failed": str(error)}
    return {"outcome": json.dumps(said)}


def _outcome(said: dict[str, Any]) -> Outcome:
    if "failed" in said:
        raise DataError(said["failed"])
    return Outcome(Counter(said["counts"]), said["bad"], Counter(said["left_out"]), said["longest"])

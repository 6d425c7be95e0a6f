"""Whether the data sets of lmms-eval's tasks are on this machine, and what to place where if they are not.

lmms-eval fetches a task's data from the Hugging Face hub when the task is built, tries again for a minute if it
cannot, and then speaks of a retry. The deciding choice: while offline, the tasks' files are read without building
anything, and what is missing is said before a model is loaded.
"""

import os
from pathlib import Path
from typing import Any

OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")


def is_offline() -> bool:
    return any(os.environ.get(name, "").upper() in ("1", "TRUE", "YES", "ON") for name in OFFLINE)


def configs(manager, task: str) -> list[dict[str, Any]]:
    """The YAML of a task, or of all tasks of a group.

    Raises:
        ValueError: lmms-eval has no task of that name.
    """
    from lmms_eval.utils import load_yaml_config

    entry = manager.task_index.get(task)
    if entry is None:
        raise ValueError(f"this lmms-eval has no task {task!r}")
    if not isinstance(entry["yaml_path"], str):
        return [config for part in entry["task"] for config in configs(manager, part)]  # a tag: names only
    config = load_yaml_config(entry["yaml_path"], mode="simple")
    if isinstance(config.get("task"), list):
        return [found for part in config["task"] if isinstance(part, str) for found in configs(manager, part)]
    return [config]


def missing(config: dict[str, Any]) -> str | None:
    """What to place where, for a task whose data set is not on this machine; None if it is, or is no hub's."""
    name, options = config.get("dataset_path"), config.get("dataset_kwargs") or {}
    if not isinstance(name, str) or "/" not in name or Path(name).exists():
        return None
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()
    built = Path(os.environ.get("HF_DATASETS_CACHE", home / "datasets")).expanduser()
    places = [hub / f"datasets--{name.replace('/', '--')}", built / name.replace("/", "___")]
    absent = [] if any(place.is_dir() for place in places) else [str(places[0])]
    videos = home / str(options.get("cache_dir", "")) if options.get("video") else None
    if videos is not None and not videos.is_dir():
        absent.append(f"{videos} (its videos, unpacked)")
    if not absent:
        return None
    fetch = f"run `hf download {name} --repo-type dataset` where there is a network"
    return f"the data set {name}: {fetch}, and place it at {' and '.join(absent)}"

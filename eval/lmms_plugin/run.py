"""A suite of public benchmarks through lmms-eval in this process, one task after the other.

    python -m eval run --suite sdar_vl_21 --tasks mmstar,ai2d --output runs/eval/public

What it writes: ``run.json`` and the suite's file (``suite.yaml``, word for word), ``responses.<rank>.jsonl`` as they
come, ``results/<task>.json`` when a task is scored, ``summary.json``. The deciding choice: a task whose results are
there is not done again, and of one that was killed no response is asked again.
"""

import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.environment import code_version, hardware, libraries, model_hash
from eval.lmms_plugin import check_installed
from eval.lmms_plugin.data import configs, is_offline, missing
from eval.output import refuse_another, replace_file
from eval.record import RunRecord
from eval.suites.public import Benchmark, PublicSuite

DRAWS = 1000  # of lmms-eval's bootstrap, for the metrics that have no closed error
KEYS = ("OPENAI_API_KEY", "AZURE_API_KEY", "API_KEY")  # one of them lets a judge be asked


@dataclass(frozen=True)
class Wanted:
    """What to run: model and settings as the command line has them; ``limit`` documents a task, all without one."""

    model: str | None
    adapter: str | None
    quantize: str | None
    settings: dict[str, Any]
    limit: int | None
    batch_size: int
    include: str | None = None

    @property
    def name(self) -> str:
        return " + ".join(filter(None, (self.model or "embedded", self.adapter)))


def prepared(suite: PublicSuite, benchmarks: Sequence[Benchmark], include: str | None = None):
    """lmms-eval's index of tasks, once everything that the benchmarks need is found to be there.

    Raises:
        ValueError: lmms-eval is not installed, a task is unknown to it, a judge cannot be asked, or data are missing
            and the hub is out of reach: one line, with what to do.
    """
    check_installed(f"suite {suite.name}")
    judged = [entry.name for entry in benchmarks if entry.judge]
    if judged and not any(os.environ.get(key) for key in KEYS):
        rest = [entry.name for entry in benchmarks if not entry.judge]
        instead = f", or leave them out: --tasks {','.join(rest)}" if rest else ""
        raise ValueError(f"{', '.join(judged)}: scored by a model behind an API; set OPENAI_API_KEY{instead}")
    manager = _manager(include)
    absent = {entry.name: _absent(manager, entry) for entry in benchmarks}
    if is_offline() and any(absent.values()):
        first = next(text for text in absent.values() if text)
        names = [name for name, text in absent.items() if text]
        raise ValueError(
            f"offline, and {len(names)} of {len(absent)} benchmarks ({', '.join(names)}) lack data: {first}"
        )
    return manager


def run_public(suite: PublicSuite, benchmarks: Sequence[Benchmark], wanted: Wanted, output: Path) -> None:
    """Evaluate, and leave results in ``output``; tasks that are finished there are not done again."""
    manager = prepared(suite, benchmarks, wanted.include)
    from eval.lmms_plugin.model import BlockDiffusion

    text = output / "suite.yaml"
    model = BlockDiffusion(
        wanted.model, wanted.adapter, wanted.quantize, responses=str(output), batch_size=wanted.batch_size,
        **wanted.settings,
    )  # fmt: skip
    try:
        model.use(suite)
        if model.rank == 0:
            _begin(output, suite, model, wanted)
            replace_file(text, suite.text)
        model.accelerator.wait_for_everyone()
        for task in dict.fromkeys(task for entry in benchmarks for task in entry.tasks):
            _task(model, manager, task, wanted, output)
    finally:
        model.close()


def _begin(output: Path, suite: PublicSuite, model, wanted: Wanted) -> None:
    """``run.json``, or AnotherRun."""
    from importlib.metadata import version

    items = {"suite_text": suite.text, "lmms_eval": version("lmms-eval")}
    settings = {**wanted.settings, "quantize": wanted.quantize}
    run = RunRecord(
        suite.name, items, wanted.name, model_hash(model.engine), settings, wanted.limit, 0, model.batch_size
    )
    run.code, run.libraries, run.hardware = code_version(), libraries(), hardware(model.engine)
    refuse_another(output, run.to_dict())
    replace_file(output / "run.json", json.dumps(run.to_dict(), indent=1))


def _task(model, manager, task: str, wanted: Wanted, output: Path) -> None:
    path = output / "results" / f"{task}.json"
    if path.is_file() and json.loads(path.read_text(encoding="utf-8"))["limit"] == wanted.limit:
        return
    from lmms_eval.evaluator import simple_evaluate

    try:
        found = simple_evaluate(
            model, tasks=[task], task_manager=manager, batch_size=model.batch_size, limit=wanted.limit,
            bootstrap_iters=DRAWS, log_samples=False, verbosity="ERROR",
        )  # fmt: skip
    except Exception as error:  # whatever a task's own code raises
        raise ValueError(f"{task}: {_reason(manager, task, error)}") from error
    if found is None:  # another process than the first
        return
    path.parent.mkdir(exist_ok=True)
    kept = {key: found.get(key) for key in ("results", "n-samples", "versions", "higher_is_better")}
    replace_file(path, json.dumps({"limit": wanted.limit, **kept}, indent=1, default=str))


def _reason(manager, task: str, error: Exception) -> str:
    """One line; data that are missing are named first, for they are most often why a task cannot be built."""
    absent = next(filter(None, map(missing, configs(manager, task))), None)
    cause = error.__cause__ or error
    return absent or f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}"


def _absent(manager, entry: Benchmark) -> str | None:
    found = (missing(config) for task in entry.tasks for config in configs(manager, task))
    return next(filter(None, found), None)


def _manager(include: str | None):
    """lmms-eval's index: of its own tasks, or of a folder's alone."""
    import vision_encoders  # noqa: F401 - lmms-eval imports torchvision

    warnings.filterwarnings("ignore")
    from loguru import logger

    logger.remove()  # it logs every template it cannot read
    from lmms_eval.tasks import TaskManager

    return TaskManager("ERROR", include_path=include, include_defaults=include is None)

"""What a run reports: one JSON line per logging step, sample answers, and a progress bar with loss, speed and time."""

import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback

from vlm.training.lines import Lines
from vlm.training.samples import SampleAnswers


class Metrics(TrainerCallback):
    """Writes ``metrics.jsonl`` beside the checkpoints; on resume it drops the lines after the resumed step.

    Must stand before the callbacks that also write what is logged, because it adds to it. Of several processes the
    first one writes.
    """

    def __init__(self, trainer):
        self.trainer = trainer
        self.lines = Lines(Path(trainer.args.output_dir) / "metrics.jsonl")
        self.answers = SampleAnswers(trainer)
        self.rows = self.slots = 0
        self.since = time.perf_counter()

    def on_train_begin(self, args, state, control, **kwargs):
        if args.process_index == 0:
            self.lines.cut(state.global_step)
            self.answers.lines.cut(state.global_step)
        self.since = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.rows += self.trainer.totals["rows"]  # the tokens of "tokens per second": clean and noisy, without padding
        self.slots += self.trainer.totals["slots"]
        # The mean of the logged loss restarts where a resumed run starts; the NELBO stands beside a loss.
        if state.global_step % args.save_steps == 0 or self._measures(state):
            control.should_log = True

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" not in logs:
            return
        now = time.perf_counter()
        logs.pop("epoch", None)  # the stream has none
        losses = self.trainer.over_processes(self.trainer.last)
        seconds = self.trainer.clock.report(now - self.since)
        logs.update(losses, tokens_per_second=round(self.rows / (now - self.since), 1))
        logs["fill"] = round(self.rows / self.slots, 4)  # of the batches' places, or budgets where rows are packed
        logs["waiting"] = round(seconds["wait"] / (now - self.since), 4)  # the share of the time that data cost
        if self._measures(state):
            if self.trainer.measures_nelbo:
                logs["nelbo"] = self.trainer.nelbo()
            self.answers.write(state.global_step)
        self.rows, self.slots, self.since = 0, 0, time.perf_counter()
        if args.process_index == 0:
            self.lines.append({"step": state.global_step, **logs, "seconds": seconds})

    def _measures(self, state) -> bool:
        return state.global_step % self.trainer.recipe.eval_steps == 0


def progress_bar(name: str) -> Progress:
    """A bar on stderr: ``name``, steps, what a task's ``said`` field holds, elapsed and remaining time."""
    return Progress(
        TextColumn(name),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        refresh_per_second=1,
    )


class ProgressLine(TrainerCallback):
    """A progress bar on stderr: step, losses, tokens per second, share of time waiting for data, times."""

    def __init__(self, trainer):
        self.bar = progress_bar("training")
        self.bar.disable = not trainer.is_world_process_zero()

    def on_train_begin(self, args, state, control, **kwargs):
        self.task = self.bar.add_task("", total=state.max_steps, completed=state.global_step, said="")
        self.bar.start()

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(self.task, completed=state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            speed = f"{logs.get('tokens_per_second', 0):.0f} tok/s"
            waiting = f"data {100 * logs.get('waiting', 0):.0f}%"
            said = f"loss {logs['diffusion_loss']:.3f} ar {logs['ar_loss']:.3f} {speed} {waiting}"
            self.bar.update(self.task, said=said)

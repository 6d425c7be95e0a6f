"""Run a suite: batches of questions through the engine, a JSON line per item as it comes, resumed where it stopped."""

import hashlib
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from eval.record import ItemRecord, RunRecord
from eval.suites import playground
from vlm.answering import answer_batch, build_request


def run_playground(
    model, processor, config, families, limit, seed, batch_size, output: Path, name: str
) -> list[ItemRecord]:
    """Evaluate ``limit`` items of each family; lines already in ``output/items.jsonl`` are not redone.

    Raises:
        ValueError: if ``output`` holds a run with other settings.
    """
    run = RunRecord("playground", name, _hash(model), _settings(config), limit, seed, libraries=_libraries()).to_dict()
    done = _resume(output, run)
    wanted = [(family, index) for family in families for index in range(limit)]
    waiting = [key for key in wanted if key not in done]
    with (output / "items.jsonl").open("a", encoding="utf-8") as file, _bar() as bar:
        for family in families:
            mine = [index for f, index in waiting if f == family]
            task = bar.add_task(family, total=limit, completed=limit - len(mine))
            for start in range(0, len(mine), batch_size):
                for record in _batch(model, processor, config, family, mine[start : start + batch_size], seed):
                    file.write(json.dumps(record.to_dict(), ensure_ascii=False) + "\n")
                    done[(family, record.index)] = record
                    bar.advance(task)
                file.flush()
    return [done[key] for key in wanted]


def _batch(model, processor, config, family: str, indices: list[int], seed: int) -> list[ItemRecord]:
    questions = [playground.question(family, seed, index) for index in indices]
    requests = [build_request(processor, q.messages, q.media, config.seed) for q in questions]
    records = []
    for q, a in zip(questions, answer_batch(model, processor, requests, config)):
        value, counts = playground.score(family, a.answer, q.expected)
        cost = (a.tokens, a.forwards, a.prefill_s, a.decode_s, a.finish_reason)
        records.append(ItemRecord(family, q.index, q.question, a.answer, q.expected, value, counts, *cost))
    return records


def _resume(output: Path, run: dict) -> dict[tuple[str, int], ItemRecord]:
    """Items of an earlier, interrupted run; refuses a directory that holds a different run."""
    output.mkdir(parents=True, exist_ok=True)
    header = output / "run.json"
    if header.exists():
        earlier = json.loads(header.read_text())
        for key, value in run.items():
            if key != "limit" and earlier.get(key) != value:
                raise ValueError(
                    f"{output} holds another run: its {key} is {earlier.get(key)!r}, this one's {value!r}"
                )
    header.write_text(json.dumps(run, indent=1))
    path = output / "items.jsonl"
    done = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            record = ItemRecord(**json.loads(line))
        except json.JSONDecodeError:
            continue  # cut off by a kill: it is done again
        record.counts = tuple(record.counts) if record.counts else None
        done[(record.family, record.index)] = record
    path.write_text(
        "".join(json.dumps(r.to_dict(), ensure_ascii=False) + "\n" for r in done.values()), encoding="utf-8"
    )
    return done


def _settings(config) -> dict:
    names = ("mode", "policy", "block_size", "denoising_steps", "threshold", "max_new_tokens", "temperature", "top_k")
    return {name: getattr(config, name) for name in (*names, "top_p", "seed")}


def _hash(model) -> str:
    """A fingerprint of the weights: SHA-256 over names and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _libraries() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in ("torch", "transformers", "timm")}}


def _bar() -> Progress:
    columns = (TextColumn("{task.description:12s}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(file=sys.stderr))

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
        ValueError: if ``output`` holds a run with other settings, or cannot be read or written.
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
                    file.write(_line(record))
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
    try:
        output.mkdir(parents=True, exist_ok=True)
        header, items = output / "run.json", output / "items.jsonl"
        if header.exists():
            _refuse_another(output, json.loads(header.read_text(encoding="utf-8")), run)
        done = _items(items) if items.exists() else {}
        _replace(header, json.dumps(run, indent=1))
        _replace(items, "".join(_line(record) for record in done.values()))
    except OSError as error:
        raise ValueError(f"{output}: cannot be used for results ({error.strerror})") from error
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, AttributeError) as error:
        raise ValueError(f"{output}: holds files that are no results of ours ({error})") from error
    return done


def _refuse_another(output: Path, earlier: dict, run: dict) -> None:
    """``limit`` may differ: a longer run continues a shorter one."""
    for key, value in run.items():
        if key != "limit" and earlier.get(key) != value:
            raise ValueError(f"{output} holds another run: its {key} is {earlier.get(key)!r}, this one's {value!r}")


def _items(path: Path) -> dict[tuple[str, int], ItemRecord]:
    """Whole lines only: what a kill left of a line has no line end, and may stop inside a character."""
    done = {}
    for line in path.read_bytes().split(b"\n")[:-1]:
        record = ItemRecord(**json.loads(line))
        record.counts = tuple(record.counts) if record.counts else None
        done[(record.family, record.index)] = record
    return done


def _line(record: ItemRecord) -> str:
    return json.dumps(record.to_dict(), ensure_ascii=False) + "\n"


def _replace(path: Path, text: str) -> None:
    """Write beside and rename, so that a kill leaves the old file or the new one."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


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

"""Inside lmms-eval itself, on tasks of a few local files: in process, through `eval run`, from its command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip("lmms_eval", reason="the extra lmms is not installed")

from eval.__main__ import main
from eval.lmms_plugin import NAME, manifest
from eval.lmms_plugin.model import BlockDiffusion, BlockDiffusionSimple
from eval.suites.public import read_suite
from tests.vlm.tiny import tiny_model
from vlm.answering import answer_batch, build_request, settings
from vlm.generation.likelihood import score_continuations

ROOT = Path(__file__).parents[3]
COMMON = """
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
doc_to_visual: !function utils.visual
doc_to_text: !function utils.text
doc_to_target: answer
metadata: [{{version: 0}}]
"""
GENERATED = """task: tiny_gen
output_type: generate_until
process_results: !function utils.scored
generation_kwargs: {max_new_tokens: 5}
metric_list: [{metric: said, aggregation: mean, higher_is_better: true}]
"""
CHOSEN = """task: tiny_choice
output_type: multiple_choice
doc_to_choice: ["red", "blue"]
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
UTILS = """
from PIL import Image
def visual(doc): return [Image.open(p).convert("RGB") if p.endswith(".png") else p for p in doc["shown"]]
def text(doc, lmms_eval_specific_kwargs=None): return doc["question"]
def scored(doc, results): return {"said": float(len(results[0]))}
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder of two tasks over three documents: an image, two images, a folder of frames."""
    folder = tmp_path_factory.mktemp("tasks")
    for name in ("red", "blue"):
        Image.new("RGB", (32, 32), name).save(folder / f"{name}.png")
    (folder / "clip").mkdir()
    for number in range(3):
        Image.new("RGB", (32, 32), (80 * number, 0, 0)).save(folder / "clip" / f"{number}.png")
    shown = ([folder / "red.png"], [folder / "red.png", folder / "blue.png"], [folder / "clip"])
    docs = [
        {"question": f"What color is it? {n}", "shown": [*map(str, own)], "answer": 0} for n, own in enumerate(shown)
    ]
    (folder / "test.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    for name, text in (("gen", GENERATED), ("choice", CHOSEN)):
        (folder / f"{name}.yaml").write_text(text + COMMON.format(data=folder / "test.jsonl"))
    (folder / "utils.py").write_text(UTILS)
    return folder, docs


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
            patch.setenv(name, "1")
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tiny")
    model, processor = tiny_model(dtype=torch.float32)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


def evaluated(model, task, folder):
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    manager = TaskManager("ERROR", include_path=str(folder), include_defaults=False)
    return simple_evaluate(model, tasks=[task], task_manager=manager, batch_size=2, bootstrap_iters=0)


def by_hand(docs):
    """The questions as one asks them without lmms-eval."""
    out = []
    for doc in docs:
        media = [Image.open(p).convert("RGB") if p.endswith(".png") else frames(p) for p in doc["shown"]]
        kinds = ["image" if isinstance(m, Image.Image) else "video" for m in media]
        content = [*({"type": k, k: m} for k, m in zip(kinds, media)), {"type": "text", "text": doc["question"]}]
        out.append(([{"role": "user", "content": content}], media))
    return out


def frames(folder):
    return [Image.open(path).convert("RGB") for path in sorted(Path(folder).iterdir())]


def test_generation_in_process_and_a_rerun_that_asks_nothing(tasks, tmp_path, monkeypatch):
    folder, docs = tasks
    loaded = tiny_model()
    model = BlockDiffusion(loaded=loaded, batch_size=2, responses=str(tmp_path))
    found = evaluated(model, "tiny_gen", folder)
    model.close()
    requests = [build_request(loaded[1], *asked) for asked in by_hand(docs)]
    answers = answer_batch(*loaded, requests, settings(loaded[0], max_new_tokens=5))
    samples = sorted(found["samples"]["tiny_gen"], key=lambda sample: sample["doc_id"])
    assert [sample["filtered_resps"][0] for sample in samples] == [a.answer.strip() for a in answers]
    expected = sum(len(answer.answer.strip()) for answer in answers) / len(docs)
    assert found["results"]["tiny_gen"]["said,none"] == pytest.approx(expected)
    monkeypatch.setattr("eval.lmms_plugin.model.answer_batch", None)
    again = BlockDiffusion(loaded=loaded, batch_size=1, responses=str(tmp_path))
    assert evaluated(again, "tiny_gen", folder)["results"]["tiny_gen"]["said,none"] == pytest.approx(expected)
    again.close()


def test_likelihoods_choose_what_the_model_finds_more_likely(tasks):
    folder, docs = tasks
    loaded = tiny_model(scale=8.0)
    found = evaluated(BlockDiffusionSimple(loaded=loaded, batch_size=2), "tiny_choice", folder)
    right = 0
    for asked in by_hand(docs):
        tokens = [loaded[1].tokenizer(word, add_special_tokens=False).input_ids for word in ("red", "blue")]
        requests = [build_request(loaded[1], *asked) for _ in tokens]
        red, blue = (one.logprob / one.tokens for one in score_continuations(loaded[0], requests, tokens))
        right += red > blue
    assert found["results"]["tiny_choice"]["acc,none"] == pytest.approx(right / len(docs))


def test_a_suite_through_our_command_line(tasks, checkpoint, tmp_path, capsys, monkeypatch):
    folder, docs = tasks
    broken = [{**docs[0], "shown": ["gone.mp4"]}, *docs[1:]]
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "test.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in broken))
    (tmp_path / "tasks" / "gen.yaml").write_text(GENERATED + COMMON.format(data=tmp_path / "tasks" / "test.jsonl"))
    (tmp_path / "tasks" / "utils.py").write_text(UTILS)
    text = "benchmarks:\n  mine: {grade: A, tasks: [tiny_gen], metric: [said], max_new_tokens: 3, block_size: 4}\n"
    (tmp_path / "mine.yaml").write_text(text)
    output = tmp_path / "out"
    options = ["run", "--suite", str(tmp_path / "mine.yaml"), "--include-path", str(tmp_path / "tasks")]
    options += ["--model", str(checkpoint), "--output", str(output), "--batch-size", "2"]
    assert main(options) == 0
    assert (output / "suite.yaml").read_text() == text
    lines = [json.loads(line) for line in (output / "responses.0.jsonl").read_text().splitlines()]
    assert [line["tokens"] <= 3 for line in lines] == [True] * 3
    failed = [line for line in lines if line["error"]]
    assert [line["doc_id"] for line in failed] == [0] and "gone.mp4" in failed[0]["error"] and failed[0]["text"] == ""
    [row] = json.loads((output / "summary.json").read_text())
    assert row["grade"] == "A" and row["not asked"] == "1" and row["n"] == "3"
    monkeypatch.setattr("lmms_eval.evaluator.simple_evaluate", None)
    capsys.readouterr()
    assert main(options) == 0 and "mine" in capsys.readouterr().out  # finished: nothing is done again
    assert main([*options, "--mode", "ar"]) == 2
    assert "holds another run: its settings" in capsys.readouterr().err
    assert main(["report", str(output)]) == 0


def test_missing_data_and_judges_are_said_before_a_model_is_loaded(tmp_path, capsys, monkeypatch):
    for key in ("OPENAI_API_KEY", "AZURE_API_KEY", "API_KEY"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    options = ["run", "--suite", "sdar_vl_21", "--output", str(tmp_path / "out"), "--model", str(tmp_path / "none")]
    assert main([*options, "--tasks", "mathvista,mmstar"]) == 2
    assert "mathvista: scored by a model behind an API; set OPENAI_API_KEY, or leave them out: --tasks mmstar" in (
        capsys.readouterr().err
    )
    assert main([*options, "--tasks", "mmstar,videomme"]) == 2
    err = capsys.readouterr().err
    assert "2 of 2 benchmarks (mmstar, videomme) lack data" in err and err.count("\n") == 1
    assert "Lin-Chen/MMStar" in err and str(tmp_path / "hub") in err and not (tmp_path / "out").exists()


def test_the_committed_suite_names_tasks_that_exist():
    from lmms_eval.tasks import TaskManager

    known = TaskManager("ERROR").task_index
    wanted = {task for entry in read_suite("sdar_vl_21").benchmarks.values() for task in entry.tasks}
    assert wanted - known.keys() == set()


def test_the_registry_takes_the_manifest():
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    registry = ModelRegistryV2()
    registry.register_manifest(manifest())
    assert registry.get_model_class(NAME) is BlockDiffusion
    assert registry.get_model_class(NAME, force_simple=True) is BlockDiffusionSimple


@pytest.mark.slow
def test_the_command_line_of_lmms_eval(tasks, checkpoint, tmp_path):
    """The entry point is one of a distribution made here, so that the test holds without installing ours anew."""
    place = tmp_path / "site" / "plugin-0.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 0\n")
    (place / "entry_points.txt").write_text(f"[lmms_eval.models]\n{NAME} = eval.lmms_plugin:manifest\n")
    paths = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])
    arguments = ["--model", NAME, "--model_args", f"pretrained={checkpoint}", "--tasks", "tiny_gen", "--log_samples"]
    arguments += ["--include_path", str(tasks[0]), "--batch_size", "2", "--output_path", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": paths, "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    options = {"env": environment, "capture_output": True, "text": True, "timeout": 500, "cwd": tmp_path}
    done = subprocess.run([sys.executable, "-m", "eval.lmms_plugin", *arguments], **options)
    assert "tiny_gen" in done.stdout and "said" in done.stdout, done.stderr[-2000:]
    [results] = (tmp_path / "out").rglob("*results.json")
    assert json.loads(results.read_text())["results"]["tiny_gen"]["said,none"] >= 0

"""The runner on a tiny random model: batches, resuming after a kill, and directories it must not touch."""

import json
import os
import re
import signal
import time
from dataclasses import replace
from functools import cache

import pytest
import torch

from eval import runner
from eval.environment import model_hash
from eval.output import continued
from eval.record import RunRecord
from eval.runner import evaluate as run_suite
from eval.suites import playground
from eval.suites.playground import question, score
from eval.summary import summary, table
from tests.vlm.tiny import tiny_model
from vlm.answering import answer_batch, build_request, settings
from vlm.checkpoints.quantize import quantize

FAMILIES = ("attributes", "describe", "video")
TIMES = {"prefill_s", "decode_s", "seconds"}


@cache
def model_and_processor(seed=0):
    """Weights so wide that what a prompt shows changes what is said of it."""
    model, processor = tiny_model()
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.4)
    return model, processor


def evaluate(output, families=FAMILIES, limit=5, seed=1, batch_size=2, name="tiny", **overrides):
    model, processor = model_and_processor()
    config = settings(model, **{"max_new_tokens": 6, **overrides})
    suite = playground.suite(seed)
    return run_suite(model, processor, config, suite, list(families), limit, batch_size, output, name)[1]


def timeless(record):
    return {key: value for key, value in record.items() if key not in TIMES}


def lines(output):
    text = (output / "items.jsonl").read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [timeless(json.loads(line)) for line in text.splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run and its records."""
    output = tmp_path_factory.mktemp("whole")
    return output, evaluate(output)


@pytest.mark.parametrize("mode", ["block", "ar"])
def test_batch_size_does_not_change_an_item(tmp_path, mode):
    one = evaluate(tmp_path / "one", batch_size=1, mode=mode)
    eight = evaluate(tmp_path / "eight", batch_size=8, mode=mode)
    assert lines(tmp_path / "one") == lines(tmp_path / "eight")
    assert [timeless(r.to_dict()) for r in one] == [timeless(r.to_dict()) for r in eight]
    assert len({r.answer for r in one}) > 3  # the model does not say one thing to every picture


def test_records_are_what_asking_one_by_one_gives(whole):
    model, processor = model_and_processor()
    _, records = whole
    assert [(r.family, r.index) for r in records] == [(f, i) for f in FAMILIES for i in range(5)]
    for record in records[::4]:
        asked = question(record.family, 1, record.index)
        request = build_request(processor, asked.messages, asked.media)
        [answer] = answer_batch(model, processor, [request], settings(model, max_new_tokens=6))
        assert (record.question, record.expected, record.answer) == (asked.question, asked.expected, answer.answer)
        assert (record.tokens, record.forwards) == (answer.tokens, answer.forwards)
        assert (record.score, record.counts) == score(record.family, answer.answer, asked.expected)


def test_the_first_item_of_a_family_is_followed_while_it_is_decoded(whole):
    model, processor = model_and_processor()
    _, records = whole
    assert [r.trace is not None for r in records] == [r.index == 0 for r in records]
    for record in records:
        if record.trace is None:
            continue
        written = {place: token for step in record.trace["steps"] for place, token, _ in step["written"]}
        assert [written[place] for place in range(record.tokens)] == record.trace["tokens"]
        assert [step["forward"] for step in record.trace["steps"]] == list(range(1, record.forwards + 1))


def test_lines_hold_the_records(whole):
    output, records = whole
    written = [json.loads(line) for line in (output / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    assert written == json.loads(json.dumps([r.to_dict() for r in records]))


@pytest.mark.parametrize("kept", [0, 1, 4, 7, 14])
@pytest.mark.parametrize("cut", [0, 1, 30, -1])
def test_a_run_killed_inside_a_line_ends_like_one_that_was_not(whole, tmp_path, kept, cut):
    """``kept`` whole lines stand, and ``cut`` bytes of the next: none, the brace, some, all but the line end."""
    output, records = whole
    raw = (output / "items.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "run.json").write_bytes((output / "run.json").read_bytes())
    (tmp_path / "items.jsonl").write_bytes(b"".join(raw[:kept]) + raw[kept][:cut])
    again = evaluate(tmp_path)
    assert lines(tmp_path) == lines(output)
    assert [timeless(r.to_dict()) for r in again] == [timeless(r.to_dict()) for r in records]
    assert b"".join((tmp_path / "items.jsonl").read_bytes().splitlines(keepends=True)[:kept]) == b"".join(raw[:kept])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["items.jsonl", "run.json"]


def test_a_kill_inside_a_character_and_odd_line_separators_are_survived(whole, tmp_path):
    output, _ = whole
    raw = (output / "items.jsonl").read_text(encoding="utf-8").splitlines()
    odd = json.dumps({**json.loads(raw[0]), "answer": "a\u2028b\x85c"}, ensure_ascii=False)
    half = json.dumps({**json.loads(raw[1]), "answer": "é"}, ensure_ascii=False).encode()
    half = half[: half.index("é".encode()) + 1]
    (tmp_path / "run.json").write_bytes((output / "run.json").read_bytes())
    (tmp_path / "items.jsonl").write_bytes(odd.encode() + b"\n" + half)
    records = evaluate(tmp_path, families=FAMILIES[:1], limit=2)
    assert records[0].answer == "a\u2028b\x85c" and records[1].to_dict()["question"] == json.loads(raw[1])["question"]


def test_a_finished_run_is_not_done_again(whole):
    output, records = whole
    before = (output / "items.jsonl").read_bytes()
    assert evaluate(output) == records  # to the last digit of their times
    assert (output / "items.jsonl").read_bytes() == before


def test_a_longer_run_continues_a_shorter_one(tmp_path):
    first = evaluate(tmp_path, families=("video",), limit=1)
    longer = evaluate(tmp_path, families=("video", "attributes"), limit=2)
    assert longer[0] == first[0] and len(longer) == len(lines(tmp_path)) == 4
    assert json.loads((tmp_path / "run.json").read_text())["limit"] == 2


@pytest.mark.parametrize(
    "other, named",
    [
        ({"seed": 2}, "seed"),
        ({"name": "else"}, "model"),
        ({"threshold": 0.5}, "settings"),
        ({"mode": "ar"}, "settings"),
    ],
)
def test_a_directory_of_another_run_is_refused_and_left_alone(whole, other, named):
    output, _ = whole
    before = {p.name: p.read_bytes() for p in output.iterdir()}
    with pytest.raises(ValueError, match=f"{output} holds another run: its {named} is ") as caught:
        evaluate(output, **other)
    assert "\n" not in str(caught.value)
    assert {p.name: p.read_bytes() for p in output.iterdir()} == before


def test_other_weights_are_another_run(whole):
    output, _ = whole
    model, processor = model_and_processor(1)
    with pytest.raises(ValueError, match="holds another run: its model_hash"):
        config = settings(model, max_new_tokens=6)
        run_suite(model, processor, config, playground.suite(1), ["video"], 1, 1, output, "tiny")


@pytest.mark.parametrize("name, text", [("run.json", "{"), ("items.jsonl", "hello\n"), ("items.jsonl", '{"a": 1}\n')])
def test_files_that_are_not_ours_are_named_in_one_line(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"{tmp_path}: holds files that are no results of ours") as caught:
        evaluate(tmp_path)
    assert "\n" not in str(caught.value) and (tmp_path / name).read_text() == text


def test_a_run_killed_in_the_middle_ends_like_one_that_was_not(whole, tmp_path):
    """SIGKILL in another process, between two batches of the second family; then the run is started again."""
    child = os.fork()
    if child == 0:
        try:
            answered = iter(range(4))

            def until_killed(*arguments, **options):
                if next(answered, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                return answer_batch(*arguments, **options)

            runner.answer_batch = until_killed
            evaluate(tmp_path)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert len(lines(tmp_path)) == 5 + 2  # three batches of the first family, and one of the next
    evaluate(tmp_path)
    assert lines(tmp_path) == lines(whole[0])


def test_two_runs_do_not_share_a_directory(whole, tmp_path):
    output, records = whole
    run = RunRecord(**json.loads((output / "run.json").read_text()))
    with continued(tmp_path, run) as (_, append):
        append(records[:3])
        before = (tmp_path / "items.jsonl").read_bytes()
        with pytest.raises(ValueError, match=f"{tmp_path}: another run is writing there") as caught:
            evaluate(tmp_path)
        assert "\n" not in str(caught.value) and (tmp_path / "items.jsonl").read_bytes() == before
    assert evaluate(tmp_path)[:3] == records[:3]  # once the other has ended, its items are taken over


def test_every_run_says_what_it_was_made_with(whole):
    output, _ = whole
    header = json.loads((output / "run.json").read_text())
    assert header["settings"]["quantize"] is None and header["settings"]["threshold"] == 0.9
    assert re.match(r"\d+\.\d+\.\d+", header["code"]) and header["libraries"]["torch"] == torch.__version__
    assert header["hardware"]["threads"] == torch.get_num_threads() and header["hardware"]["device"] == "cpu"
    assert header["model_hash"] == model_hash(model_and_processor()[0])


def test_the_seconds_of_the_items_are_those_of_the_run(tmp_path):
    start = time.perf_counter()
    records = evaluate(tmp_path, families=("attributes",), limit=4)
    passes = sum(r.prefill_s for r in records[::2])  # a batch of two says its time twice
    assert 0 < passes <= sum(r.seconds for r in records) + 1e-3 <= time.perf_counter() - start


def test_a_quantised_model_has_a_hash_of_its_own():
    models = [tiny_model(dtype=torch.float32)[0] for _ in range(4)]
    quantize(models[1], "int8")
    quantize(models[2], "int8")
    with torch.no_grad():
        next(models[3].language_model.parameters()).view(-1)[0] += 1
    plain, one, two, other = map(model_hash, models)
    assert one == two and len({plain, one, other}) == 3


def test_an_item_that_is_too_long_costs_only_itself(tmp_path, monkeypatch):
    """The position range is too short for some of the prompts, which stand in one batch with the others."""
    model, processor = model_and_processor()
    asked = [question("multi_image", 1, index) for index in range(6)]
    lengths = [len(build_request(processor, q.messages, q.media).input_ids) for q in asked]
    limit = sorted(lengths)[2] + 4  # a block behind the third shortest
    monkeypatch.setattr(model.config.text_config, "max_position_embeddings", limit)
    records = evaluate(tmp_path, families=("multi_image",), limit=6, batch_size=6, max_new_tokens=4)
    assert [r.error is None for r in records] == [length + 4 <= limit for length in lengths]
    failed = [r for r in records if r.error]
    assert failed and all("position limit" in r.error and r.score == r.tokens == 0 for r in failed)
    assert summary(records)["multi_image"]["not_asked"] == len(failed)


def test_the_summary_is_made_of_the_records(whole):
    _, records = whole
    right = [replace(r, score=float(i < 2)) for i, r in enumerate(records[:5])]
    slots = [replace(r, counts=(i, 4, 4)) for i, r in enumerate(records[5:10])]
    rows = summary([*right, *slots])
    assert (rows["attributes"]["metric"], rows["attributes"]["score"], rows["attributes"]["n"]) == (
        "accuracy",
        40.0,
        5,
    )
    assert (rows["describe"]["metric"], rows["describe"]["score"]) == ("slot-F1", 50.0)  # 10 of 20 and of 20
    for row, items in zip(rows.values(), (right, slots)):
        assert row["low"] <= row["score"] <= row["high"]
        expected = sum(r.tokens for r in items) / sum(r.forwards for r in items)
        assert row["tokens_per_forward"] == pytest.approx(expected, abs=0.006)
        assert row["unfinished"] == sum(r.finish_reason == "length" for r in items)
    assert table(records, "").row_count == 3 + 1  # and the mean of the families

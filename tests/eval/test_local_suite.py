"""The local suite: real files of each kind, samples that cannot be asked, and a whole run on a tiny model."""

import base64
import io
import json

import pytest
import torch
from PIL import Image

from eval.runner import evaluate
from eval.suites import local
from eval.suites.choose import suite_of
from tests.vlm.tiny import tiny_model
from vlm.answering import settings


def picture(color="red"):
    out = io.BytesIO()
    Image.new("RGB", (32, 32), color).save(out, "PNG")
    return out.getvalue()


def asked(source, metric="exact_match", **options):
    suite = local.suite(str(source), metric, **options)
    [family] = suite.metrics
    return suite, list(suite.questions(family, range(100)))


@pytest.fixture
def jsonl(tmp_path):
    """Six LLaVA records: good, no JSON, a picture cut off, no answer, several turns, good without media."""
    (tmp_path / "a.png").write_bytes(picture())
    (tmp_path / "cut.png").write_bytes(picture()[:60])
    human = lambda text, **more: {"conversations": [{"from": "human", "value": text}], **more}  # noqa: E731
    turn = lambda record, *values: record["conversations"].extend(  # noqa: E731
        {"from": who, "value": value} for who, value in zip(("gpt", "human", "gpt"), values)
    )
    good, cut, open_, several, plain = (
        human("<image>\nWhat color?", image="a.png"),
        human("<image>\nWhat color?", image="cut.png"),
        human("<image>\nAnd this?", image="a.png"),
        human("<image>\nFirst?", image="a.png"),
        human("How many?"),
    )
    turn(good, "red"), turn(cut, "red"), turn(several, "one", "Second?", "two"), turn(plain, "4")
    lines = [json.dumps(good), "{", *map(json.dumps, (cut, open_, several, plain))]
    (tmp_path / "task.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "task.jsonl"


def test_llava_lines_are_asked_their_last_question(jsonl):
    suite, questions = asked(jsonl)
    assert (suite.name, suite.metrics) == ("local", {"task": "exact_match"})
    assert [q.index for q in questions] == list(range(6))
    good, several, plain = questions[0], questions[4], questions[5]
    assert (good.question, good.expected, good.references) == ("What color?", "red", ("red",))
    assert [m.size for m in good.media] == [(32, 32)] and plain.media == []
    assert (several.question, several.expected) == ("Second?", "two")
    assert [m["role"] for m in several.messages] == ["user", "assistant", "user"]
    assert suite.score(good, "Red.") == (1.0, None) and suite.score(good, "blue") == (0.0, None)


def test_what_cannot_be_asked_says_why_and_where(jsonl):
    _, questions = asked(jsonl)
    broken = {q.index: q.error for q in questions if q.error is not None}
    assert list(broken) == [1, 2, 3] and not any("\n" in why for why in broken.values())
    assert f"{jsonl}:2: not JSON" in broken[1] and "cut.png" in broken[2]
    assert "holds no answer to score by" in broken[3] and str(jsonl) in broken[3]
    _, questions = asked(jsonl, "json_validity")
    assert questions[3].error is None  # validity needs no answer
    _, questions = asked(jsonl, "slot_f1")
    assert "not a JSON object" in questions[0].error


def test_only_the_asked_indices_are_made(jsonl):
    suite = local.suite(str(jsonl), "exact_match")
    assert [q.index for q in suite.questions("task", [0, 4])] == [0, 4]
    assert list(suite.questions("task", [])) == []


def test_a_vlmevalkit_table_brings_its_choices(tmp_path):
    image = base64.b64encode(picture()).decode()
    rows = [("index", "image", "question", "A", "B", "answer"), ("0", image, "Which?", "red", "blue", "A")]
    source = tmp_path / "MMTiny.tsv"
    source.write_text("".join("\t".join(row) + "\n" for row in rows))
    suite, [question] = asked(source, "multiple_choice")
    assert question.choices == {"A": "red", "B": "blue"} and question.expected == "A"
    assert "A. red" in question.question and len(question.media) == 1
    assert [suite.score(question, said)[0] for said in ("A", "it is red", "(B)", "")] == [1, 1, 0, 0]


def test_parquet_with_a_list_of_answers(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [
        {"question": "Who?", "image": {"bytes": picture()}, "answers": ["Dear Dr. Lobo", "Dr. Lobo"]},
        {"question": "When?", "image": {"bytes": picture("blue")}, "answers": ["12/15/88"]},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "docs.parquet")
    suite, questions = asked(tmp_path / "docs.parquet", "anls")
    assert [q.references for q in questions] == [("Dear Dr. Lobo", "Dr. Lobo"), ("12/15/88",)]
    assert [q.error for q in questions] == [None, None] and questions[0].expected == "Dear Dr. Lobo | Dr. Lobo"
    assert suite.score(questions[0], "dr. lobo") == (1.0, None)
    assert suite.score(questions[1], "12/15/89") == (1 - 1 / 8, None)


def test_people_and_lists_as_text(tmp_path):
    people = [{"answer": "red", "answer_id": i} for i in range(2)] + [{"answer": "blue"}] * 8
    lines = [
        {"question": "Color?", "answers": people},
        {"question": "Color?", "answer": "['red', 'dark red']"},
    ]
    (tmp_path / "vqa.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    suite, (ten, two) = asked(tmp_path / "vqa.jsonl", "vqa_accuracy")
    assert suite.score(ten, "red")[0] == pytest.approx(0.6) and two.references == ("red", "dark red")


def test_a_media_root_of_its_own(jsonl, tmp_path):
    away = tmp_path / "away"
    away.mkdir()
    (away / "task.jsonl").write_bytes(jsonl.read_bytes())
    assert asked(away / "task.jsonl")[1][0].error is not None
    assert asked(away / "task.jsonl", media_root=str(tmp_path))[1][0].error is None


@pytest.fixture(scope="module")
def tiny():
    return tiny_model()


def run(tiny, source, output, batch_size=2, limit=9, metric="exact_match"):
    model, processor = tiny
    suite = local.suite(str(source), metric)
    config = settings(model, max_new_tokens=4)
    return evaluate(model, processor, config, suite, list(suite.metrics), limit, batch_size, output, "tiny")


def test_a_run_counts_the_unreadable_as_wrong_and_is_the_same_in_any_batch(tiny, jsonl, tmp_path):
    header, one = run(tiny, jsonl, tmp_path / "one", batch_size=1)
    _, eight = run(tiny, jsonl, tmp_path / "eight", batch_size=8)
    assert [r.index for r in one] == list(range(6))  # fewer than the limit: the source ends there
    said = [[(r.answer, r.tokens, r.forwards, r.score, r.error) for r in records] for records in (one, eight)]
    assert said[0] == said[1]
    failed = [r for r in one if r.error is not None]
    assert [r.index for r in failed] == [1, 2, 3] and all(r.score == r.tokens == 0 for r in failed)
    assert header.items["metric"] == "exact_match" and suite_of(header).items == header.items


def test_a_run_over_a_source_that_has_changed_is_another(tiny, jsonl, tmp_path):
    header, _ = run(tiny, jsonl, tmp_path / "out", limit=2)
    jsonl.write_bytes(jsonl.read_bytes().replace(b'"red"', b'"rad"'))
    with pytest.raises(ValueError, match="holds another run: its items is"):
        run(tiny, jsonl, tmp_path / "out", limit=2)
    with pytest.raises(ValueError, match="has changed since the run"):
        suite_of(header)


def test_questions_about_one_picture_share_its_prefix(tiny, tmp_path, monkeypatch):
    """The picture goes through the vision tower once for the whole run."""
    (tmp_path / "a.png").write_bytes(picture())
    turns = [[{"from": "human", "value": f"<image>\nIs it {n}?"}, {"from": "gpt", "value": "no"}] for n in range(4)]
    lines = [{"image": "a.png", "conversations": chat} for chat in turns]
    (tmp_path / "same.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    model, _ = tiny
    seen = []
    encode = type(model).encode_media
    monkeypatch.setattr(type(model), "encode_media", lambda self, p, *a: seen.append(len(p)) or encode(self, p, *a))
    run(tiny, tmp_path / "same.jsonl", tmp_path / "out", batch_size=2)
    assert sum(seen) == 1 and torch.is_grad_enabled()

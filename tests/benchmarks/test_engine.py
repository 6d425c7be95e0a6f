"""The engine's parts against their alternatives: both sides give the same, and each does it in its own way."""

import json
import subprocess

import pytest
import torch

from benchmarks import engine, memory
from benchmarks.alternatives import ConcatCache, SeparateClose
from benchmarks.engine import main
from benchmarks.passes import peek
from data_pipelines.playground import item
from tests.vlm.tiny import tiny_model
from vlm.answering import settings
from vlm.attention import Rows
from vlm.cache import BlockCache
from vlm.generation import scoring
from vlm.generation.loop import Loop
from vlm.generation.prefix import PrefixStore
from vlm.generation.request import Request
from vlm.generation.strategy import build_strategy


@pytest.mark.parametrize("context", ["causal", "block_causal"])
def test_a_separate_close_gives_the_same_tokens_in_a_pass_more_for_every_closed_block(context):
    model, _ = tiny_model(context_attention=context)
    strategy = build_strategy(model, settings(model, mode="block", block_size=4, max_new_tokens=10))
    requests = [Request(torch.arange(5, 5 + n)) for n in (3, 6)]
    fused, separate = (kind(model, requests, strategy).run() for kind in (Loop, SeparateClose))
    for one, other in zip(fused, separate):
        assert one.tokens == other.tokens and one.logprobs == pytest.approx(other.logprobs, abs=1e-9)
        closed = (len(one.generated) - 1) // 4  # all but the last block
        assert other.forwards == one.forwards + closed


def test_a_separate_close_caches_what_a_fused_one_does():
    model, _ = tiny_model()
    strategy = build_strategy(model, settings(model, mode="block", block_size=4, max_new_tokens=10))
    caches = [BlockCache(model.config.text_config, 1) for _ in range(2)]
    for kind, cache in zip((Loop, SeparateClose), caches):
        kind(model, [Request(torch.arange(5, 12))], strategy, cache).run()
    length = int(caches[0].lengths[0])
    assert caches[1].lengths.tolist() == [length]
    for (k, v), (other_k, other_v) in zip(caches[0].read(0, 0, length), caches[1].read(0, 0, length)):
        assert torch.allclose(k, other_k, atol=1e-9) and torch.allclose(v, other_v, atol=1e-9)


def step(model, cache, position, view, size, ids):
    """One pass over rows of a single batch row; its hidden states."""
    position = torch.tensor([position])
    start = position // size * size
    rows = Rows(position, torch.zeros_like(position), torch.full_like(position, view), start, start + size)
    return model.decode(model.get_input_embeddings()(torch.tensor([ids])), rows, cache)


@torch.no_grad()
def test_both_caches_give_the_same_over_peeks_and_commits():
    model, _ = tiny_model()
    caches = [BlockCache(model.config.text_config, 1, capacity=4), ConcatCache()]
    found = [[], []]
    for cache, out in zip(caches, found):
        for start in (0, 4, 8):
            for ids in ([3, 3, 3, 3], [3, 9, 3, 3]):  # denoising: nothing is kept
                out.append(step(model, cache, range(start, start + 4), 1, 4, ids))
            out.append(step(model, cache, range(start, start + 4), 0, 4, [7, 9, 11, 13]))
            cache.commit(torch.tensor([4]))
    assert torch.allclose(torch.cat(found[0]), torch.cat(found[1]), atol=1e-9)
    assert not torch.allclose(found[0][0], found[0][3])  # what was committed is seen


@torch.no_grad()
def test_the_caches_compared_hold_the_same_and_keep_it():
    model, _ = tiny_model()
    caches = engine._filled(model, 300)
    logits = [peek(model, cache, 300, 4, 4) for cache in caches.values() for _ in range(3)]
    assert all(torch.allclose(logits[0], other, atol=1e-9) for other in logits)
    assert caches["in_place"].lengths.tolist() == [300] and caches["concatenated"].length == 300
    assert caches["concatenated"].get_seq_length() == 304  # the last pass copied everything


def test_bytes_copied_are_those_of_keys_and_values():
    model, _ = tiny_model()
    cache = engine._filled(model, 20)["concatenated"]
    held = sum(t.nbytes for layer in cache.layers for t in (layer.keys, layer.values))
    assert engine._kv_bytes(model.config.text_config, 20, model.dtype) == held


def test_questions_about_a_video_encode_its_frames_once_with_a_store():
    model, processor = tiny_model()
    made, store = item("video", "heldout", 1, 0, n_turns=3), PrefixStore()
    config = settings(model, max_new_tokens=4)
    with_store = engine._ask(model, processor, config, made, store)
    without = engine._ask(model, processor, config, made, None)
    assert with_store["answers"] == without["answers"] and len(with_store["answers"]) == 3
    assert with_store["encoded"] <= len(made.media) and store.hits == 2 and store.misses == 1


@pytest.mark.parametrize("way", memory.WAYS)
def test_only_the_whole_way_makes_all_logits_at_once(monkeypatch, way):
    monkeypatch.setattr(scoring, "CHUNK", 5 * 200)
    model, made = memory.build(200, 4), []
    head = model.head
    monkeypatch.setattr(model, "head", lambda hidden: made.append(len(hidden)) or head(hidden))
    memory.decode(model, way, 3)
    assert made == ([12] if way == "whole" else [5, 5, 2])
    assert scoring.CHUNK == 5 * 200


@pytest.mark.slow
def test_memory_is_told_by_a_process_of_its_own():
    found = memory.measured("whole", 200, 2, 4)
    assert 0 < found["built_mb"] <= found["peak_mb"]


def test_a_process_that_fails_says_why(monkeypatch):
    def failing(command, **how):
        assert command[1:] == ["-m", "benchmarks.memory", "whole", "200", "2", "4"]
        return subprocess.CompletedProcess(command, 1, "", "Traceback\nMemoryError: too much")

    monkeypatch.setattr(subprocess, "run", failing)
    with pytest.raises(ValueError, match="measuring memory failed: MemoryError: too much"):
        memory.measured("whole", 200, 2, 4)


def test_growth_is_what_decoding_adds(monkeypatch):
    found = iter([{"built_mb": 400.0, "peak_mb": 450.5}, {"built_mb": 400.0, "peak_mb": 1000.0}])
    monkeypatch.setattr(engine, "measured", lambda *sizes: next(found))
    told = engine.memory(152_000, 8, 32)
    assert told["growth_mb"] == {"chunked": 50.5, "whole": 600.0} and "148 MB" in told["bound"]


@pytest.fixture
def tiny(monkeypatch):
    loaded = tiny_model(dtype=torch.float32)
    loaded[0].generation_config.max_new_tokens = 8
    monkeypatch.setattr(engine, "load", lambda name: loaded)
    monkeypatch.setattr(engine, "measured", lambda way, *sizes: {"built_mb": 1.0, "peak_mb": 3.0})
    monkeypatch.setattr(engine, "QUESTIONS", 2)
    monkeypatch.setattr(engine, "PASSES", 2)


def test_the_command_measures_every_part(tmp_path, capsys, tiny):
    output = tmp_path / "out.json"
    options = ["--limit", "1", "--contexts", "8,40", "--batches", "2,3", "--output", str(output)]
    assert main(options) == 0
    found = json.loads(output.read_text())
    assert all(found[part]["bound"] for part in engine.PARTS)
    assert found["close"]["same_tokens"] == found["close"]["items"] == 1
    assert found["close"]["passes"]["separate"] > found["close"]["passes"]["fused"]
    assert list(found["cache"]["contexts"]) == ["8", "40"]
    assert found["prefix"]["same_answers"] == found["prefix"]["ceiling"] == 2
    assert {n: s["same_answers"] for n, s in found["batch"]["sizes"].items()} == {"1": 3, "2": 3, "3": 3}
    shown = capsys.readouterr().out
    assert shown.count("bound: ") == len(engine.PARTS) and "40 tokens: concatenated / in place" in shown


def test_parts_can_be_chosen(tmp_path, tiny):
    output = tmp_path / "out.json"
    assert main(["--parts", "cache,memory", "--limit", "1", "--contexts", "8", "--output", str(output)]) == 0
    assert [part for part in engine.PARTS if part in json.loads(output.read_text())] == ["memory", "cache"]


@pytest.mark.parametrize(
    "options, says",
    [
        (["--parts", "cash"], "part 'cash' is not one of memory, close, cache, prefix, batch"),
        (["--limit", "0"], "--limit 0 must be at least 1"),
        (["--contexts", "1k"], "--contexts '1k' must be a number of at least 1"),
        (["--batches", "0"], "--batches '0' must be a number of at least 1"),
        (["--parts", "close", "--block-size", "7"], "block_size 7 was not trained"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, tiny, options, says):
    assert main(["--output", str(tmp_path / "out.json"), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and error.count("\n") == 1

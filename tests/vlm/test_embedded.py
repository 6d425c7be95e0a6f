"""The embedded model as a user meets it: small, loadable, and keeping the promises that tiny random models prove."""

import pytest
import torch

from data_pipelines.playground import EVALUATED
from data_pipelines.playground.describe import parse
from eval.metrics import f1, slot_counts
from eval.suites.playground import question
from vlm.answering import answer_batch, build_request, settings
from vlm.checkpoints.load import EMBEDDED, load

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def embedded():
    return load(device="cpu")


def requests(processor, n: int = 1):
    questions = [question(family, 5, index) for family in EVALUATED for index in range(n)]
    return [build_request(processor, q.messages, q.media) for q in questions]


def test_it_is_small_and_safetensors_only():
    files = list(EMBEDDED.iterdir())
    assert sum(f.stat().st_size for f in files) <= 64e6
    assert {f.suffix for f in files} <= {".safetensors", ".json", ".jinja", ".md"}
    assert (EMBEDDED / "MODEL_CARD.md").exists()


def test_its_traits_are_those_that_were_decided(embedded):
    traits = embedded[0].config.traits
    assert (traits.context_attention, traits.prediction_shift, traits.block_origin) == ("causal", 0, "response")
    assert traits.ar_mode and traits.trained_block_sizes == (4, 8, 16, 32)


def test_it_describes_a_scene(embedded):
    model, processor = embedded
    questions = [question("describe", 5, index) for index in range(12)]
    batch = [build_request(processor, q.messages, q.media) for q in questions]
    answers = answer_batch(model, processor, batch, settings(model))
    counts = [slot_counts(parse(a.answer), parse(q.expected)) for a, q in zip(answers, questions)]
    assert f1(*map(sum, zip(*counts))) >= 0.3


@pytest.mark.parametrize("mode", ["block", "ar"])
def test_a_batch_of_all_families_equals_single_runs(embedded, mode):
    """fp32: a difference is allowed only where two choices were within rounding, and none is expected."""
    model, processor = embedded
    config = settings(model, mode=mode, max_new_tokens=48)
    together = answer_batch(model, processor, requests(processor), config)
    alone = [answer_batch(model, processor, [request], config)[0] for request in requests(processor)]
    assert [a.answer for a in together] == [a.answer for a in alone]


@torch.no_grad()
def test_ar_mode_is_the_stock_language_model(embedded):
    """Without media the AR mode is transformers' own greedy generate on the same weights."""
    model, processor = embedded
    for text in ("Describe the image.", "How many circles are there?", "What is the total?"):
        request = build_request(processor, [{"role": "user", "content": text}], [])
        ours = answer_batch(model, processor, [request], settings(model, mode="ar", max_new_tokens=24))[0]
        stock = model.language_model.generate(
            input_ids=request.input_ids[None], attention_mask=torch.ones_like(request.input_ids)[None],
            max_new_tokens=24, do_sample=False, suppress_tokens=model.generation_config.suppress_tokens,
            eos_token_id=processor.tokenizer.eos_token_id, pad_token_id=0,
        )[0, len(request.input_ids) :]  # fmt: skip
        assert processor.decode(stock).strip() == ours.answer

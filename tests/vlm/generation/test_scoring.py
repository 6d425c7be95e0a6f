"""Scores against their definitions, whatever the chunks and whoever shares the batch."""

import pytest
import torch

from tests.vlm.generation.sharp import sharp_model
from tests.vlm.tiny import greedy, tiny_model
from vlm.generation import scoring
from vlm.generation.generate import answer
from vlm.generation.request import Request
from vlm.generation.scoring import Sampler, score


def prompts(count: int = 5) -> list[Request]:
    generator = torch.Generator().manual_seed(1)
    return [Request(torch.randint(20, 250, (3 + k,), generator=generator), seed=k) for k in range(count)]


def test_scores_are_what_they_are_called():
    logits = torch.randn(7, 30, dtype=torch.float64) * 3
    found = Sampler().propose(logits, [])
    p = torch.tensor([[torch.exp(x - torch.logsumexp(row, 0)) for x in row] for row in logits])
    assert torch.equal(found.token, p.argmax(-1))
    torch.testing.assert_close(found.probability, p.max(-1).values)
    torch.testing.assert_close(found.entropy, torch.special.entr(p).sum(-1))
    ordered = p.sort(descending=True).values
    torch.testing.assert_close(found.margin, ordered[:, 0] - ordered[:, 1])


def test_impossible_tokens_do_not_make_entropy_a_nan():
    logits = torch.tensor([[0.0, -torch.inf, 0.0], [-torch.inf, 2.0, -torch.inf]])
    found = Sampler().propose(logits, [])
    assert found.entropy.tolist() == pytest.approx([0.6931, 0.0], abs=1e-4)
    assert found.margin.tolist() == pytest.approx([0.0, 1.0])


@pytest.mark.parametrize("rows", [1, 2, 5, 100])
def test_chunks_change_nothing_and_are_no_larger_than_said(monkeypatch, rows):
    monkeypatch.setattr(scoring, "CHUNK", rows * 40)
    hidden, weight, seen = torch.randn(13, 8), torch.randn(40, 8), []

    def head(part):
        seen.append(len(part))
        return part @ weight.T

    def edit(logits, start):
        for i in range(len(logits)):
            logits[i, (start + i) % 40] = -torch.inf  # depends on the row's number in the whole

    def seeds():
        return [torch.Generator().manual_seed(i) for i in range(13)]

    samplers = [Sampler(), Sampler(temperature=0.8, top_k=5), Sampler(top_p=0.5, temperature=1.0)] * 4 + [Sampler()]
    found = score(head, hidden, samplers, seeds(), edit, 40)
    assert max(seen) <= rows and sum(seen) == 13
    logits = hidden @ weight.T
    edit(logits, 0)
    for i, (sampler, generator) in enumerate(zip(samplers, seeds())):
        alone = sampler.propose(logits[i : i + 1], [generator])
        assert alone.token.item() == found.token[i].item()
        assert alone.probability.item() == pytest.approx(found.probability[i].item(), rel=1e-5)


@pytest.mark.parametrize("settings", [{"mode": "ar"}, {"mode": "speculative"}])
def test_logprobs_are_the_clean_streams_own(settings):
    model, _ = sharp_model()
    for state in answer(model, prompts(), greedy(max_new_tokens=9, **settings)):
        with torch.no_grad():
            logits = model(torch.tensor([state.tokens])).logits[0]
        logits[:, list(state.strategy.suppress_tokens)] = -torch.inf
        expected = logits.log_softmax(-1)[state.prompt_length - 1 : -1]
        expected = expected.gather(-1, torch.tensor(state.generated).unsqueeze(-1)).squeeze(-1)
        assert state.logprobs == pytest.approx(expected.tolist(), abs=1e-9)


def test_every_token_has_a_logprob_in_block_mode():
    model, _ = tiny_model(scale=4.0)
    for state in answer(model, prompts(), greedy(max_new_tokens=11, threshold=0.05)):
        assert len(state.logprobs) == len(state.generated) == 11
        assert all(-50 < value <= 0 for value in state.logprobs)

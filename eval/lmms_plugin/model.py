"""The model class that lmms-eval drives: its requests go through this package's engine, in batches, with one store.

Two classes share everything but the layout of a request: `BlockDiffusion` for chat tasks, `BlockDiffusionSimple` for
tasks of the older kind, the only one with likelihoods. The deciding choice: a request that cannot be asked gets an
empty answer and its reason in the responses, so that it counts as wrong and a task never stops.
"""

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from rich.console import Console
from rich.progress import track

from eval.lmms_plugin.asking import Asked, asked, conversation, settings_of
from eval.lmms_plugin.responses import Response, Responses, digest_of, kept
from eval.ranks import device as own_device
from eval.suites.public import SETTINGS, PublicSuite, read_suite
from vision_encoders.config import nearest
from vlm.answering import answer_batch, build_request, own_strategy, settings
from vlm.checkpoints.load import load
from vlm.generation.likelihood import score_continuations
from vlm.generation.prefix import PrefixStore

STORE = 256 * 2**20  # bytes: a picture's questions stand beside each other
MOST_TOKENS = 256  # where neither suite nor task says
DECODING = tuple(name for name in SETTINGS if name != "stop")


class BlockDiffusion(lmms):
    """A checkpoint of this package for lmms-eval's chat tasks.

    Args (of ``--model_args``):
        pretrained: a checkpoint directory or hub id; by default the embedded model. adapter, quantize: as `load`.
        suite: a suite's name or file, whose settings a task then has; by default those of the checkpoint.
        responses: a folder where answers are kept; a run that was killed goes on from there.
        frames: most frames of a video.
        likelihood: ``ar`` (exact) or ``block`` (the bound); by default ``ar`` where the checkpoint has that mode.
        mode, policy, threshold, block_size, denoising_steps, max_new_tokens: prevail over suite and task.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str | None = None,
        adapter: str | None = None,
        quantize: str | None = None,
        suite: str | None = None,
        responses: str | None = None,
        frames: int = 16,
        likelihood: str | None = None,
        batch_size: int | str = 8,
        device: str | None = None,
        max_batch_size: int | None = None,  # lmms-eval hands it over; a batch size is never guessed here
        loaded: tuple[Any, Any] | None = None,  # a model and its processor, in process
        **own: Any,
    ):
        super().__init__()
        for name in own:
            if name not in DECODING:
                raise ValueError(f"unknown model argument {name!r}; {nearest(name, DECODING)}")
        self.accelerator = Accelerator(cpu=not torch.cuda.is_available())  # else it sees one process without GPUs
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        place = own_device() or device
        self.engine, self.processor = loaded or load(pretrained, adapter, device=place, quantize=quantize)
        self.config = settings(self.engine, tokenizer=self.processor.tokenizer, max_new_tokens=MOST_TOKENS)
        self.own, self.batch_size, self.frames = own, max(1, int(batch_size)), int(frames)
        self.by_task = _by_task(read_suite(suite)) if suite else {}
        self.store = PrefixStore(STORE)
        self.likelihood_mode = likelihood or ("ar" if self.engine.config.traits.ar_mode else "block")
        self._open = ExitStack()
        self.responses: Responses = self._open.enter_context(kept(Path(responses) if responses else None, self._rank))

    @property
    def device(self):
        return self.engine.device

    def clean(self) -> None:
        """lmms-eval frees models here; one that serves several tasks in one process stays."""

    def use(self, suite: PublicSuite) -> None:
        """Decode a suite's tasks as its file says."""
        self.by_task = _by_task(suite)

    def close(self) -> None:
        """Let go of the responses' file."""
        self._open.close()

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answers in the order of the requests, with their numbers of tokens."""
        items = [asked(request.args, self.task_dict, not self.is_simple) for request in requests]
        found = self._through(items, [self._settings(item) for item in items], self._generated)
        return [GenerationResult(r.text, TokenCounts(output_tokens=r.tokens)) for r in found]

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """(mean negative log-probability of a token, whether greedy decoding says the same) of every continuation.

        The sign is lmms-eval's practice: its models return the loss, and its multiple choice takes the least. The pair
        is wrapped because the evaluator of 0.7.3 makes a text of a bare one.
        """
        if any(len(request.args) != 6 for request in requests):
            raise ValueError("a likelihood without a question (acc_mutual_info): this model always answers one")
        items = [asked(request.args, self.task_dict, not self.is_simple) for request in requests]
        texts = [item.given(item.doc) if callable(item.given) else item.given for item in items]
        given = [{"mode": self.likelihood_mode, "continuation": str(text).strip()} for text in texts]
        found = self._through(items, given, self._scored)
        return [GenerationResult(tuple(one.value or (float("inf"), False))) for one in found]

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError("tasks of several rounds are not asked: a question here has one answer")

    def _settings(self, item: Asked) -> dict[str, Any]:
        return settings_of(item.given or {}, self.by_task.get(item.task, {}), self.own)

    def _through(self, items: list[Asked], given: list[dict], answer) -> list[Response]:
        """A response for every item: kept ones, and batches of the others, written as they come."""
        keys = [(i.task, i.doc_id, digest_of(i.context, g, self.is_simple)) for i, g in zip(items, given)]
        waiting = [n for n, key in enumerate(keys) if self.responses.get(*key) is None]
        batches = [waiting[i : i + self.batch_size] for i in range(0, len(waiting), self.batch_size)]
        quiet = self._rank > 0
        for batch in track(batches, "answering", console=Console(stderr=True, quiet=quiet), disable=quiet):
            start = time.perf_counter()
            results = answer([items[n] for n in batch], [given[n] for n in batch])
            seconds = round((time.perf_counter() - start) / len(batch), 4)
            for n, result in zip(batch, results):
                self.responses.add(Response(*keys[n], seconds=seconds, **result))
        return [self.responses.get(*key) for key in keys]

    def _generated(self, items: list[Asked], given: list[dict]) -> list[dict[str, Any]]:
        prepared = [self._prepared(item, own) for item, own in zip(items, given)]
        good = [request for request in prepared if not isinstance(request, str)]
        answers = iter(self._answers(good))
        results = [request if isinstance(request, str) else next(answers) for request in prepared]
        return [_failed(r) if isinstance(r, str) else _said(r) for r in results]

    def _answers(self, requests: list) -> list:
        if not requests:
            return []
        try:
            return answer_batch(self.engine, self.processor, requests, self.config, store=self.store)
        except ValueError as error:  # one of them is illegal: each alone, to find it
            return [str(error)] if len(requests) == 1 else [a for r in requests for a in self._answers([r])]

    def _prepared(self, item: Asked, given: dict[str, Any]):
        """A request that knows how it is decoded, or the reason why there is none; illegal settings end the run."""
        strategy = own_strategy(self.engine, self.processor, self.config, given)
        try:
            request = build_request(self.processor, *conversation(item, not self.is_simple, self.frames))
        except (ValueError, OSError) as error:  # DataError included
            return f"{item.task} {item.doc_id}: {' '.join(str(error).split())}"
        request.strategy = strategy
        return request

    def _scored(self, items: list[Asked], given: list[dict]) -> list[dict[str, Any]]:
        requests = [self._prepared(item, {}) for item in items]
        tokens = [self.processor.tokenizer(g["continuation"], add_special_tokens=False).input_ids for g in given]
        reasons = [
            r if isinstance(r, str) else None if t else "an empty continuation" for r, t in zip(requests, tokens)
        ]
        good = [n for n, reason in enumerate(reasons) if reason is None]
        pairs = [requests[n] for n in good], [tokens[n] for n in good]
        found = score_continuations(self.engine, *pairs, self.likelihood_mode, batch_size=self.batch_size)
        values = iter([(-one.logprob / one.tokens, said) for one, said in zip(found, self._greedy(*pairs))])
        return [
            {"text": g["continuation"], "value": next(values)} if reason is None else _failed(reason)
            for g, reason in zip(given, reasons)
        ]

    def _greedy(self, requests: list, tokens: list[list[int]]) -> list[bool]:
        """Whether greedy decoding begins each answer with these tokens."""
        mode = {"mode": self.likelihood_mode, "temperature": 0.0}
        for request, own in zip(requests, tokens):
            request.strategy = own_strategy(
                self.engine, self.processor, self.config, {**mode, "max_new_tokens": len(own)}
            )
        answers = self._answers(requests)
        texts = [self.processor.decode(own).strip() for own in tokens]
        return [not isinstance(a, str) and a.answer == text for a, text in zip(answers, texts)]


class BlockDiffusionSimple(BlockDiffusion):
    """The same for tasks of lmms-eval's simple kind (``--force_simple``), likelihoods among them."""

    is_simple = True


def _by_task(suite: PublicSuite) -> dict[str, dict[str, Any]]:
    """A suite's settings by lmms-eval's names of tasks; of entries that share a task the first one's."""
    entries = reversed(list(suite.benchmarks.values()))
    return _Prefixes({task: entry.settings for entry in entries for task in entry.tasks})


class _Prefixes(dict):
    """A group ``mathvista_testmini`` has the tasks ``mathvista_testmini_cot`` and so on."""

    def get(self, key: str, default=None):
        fitting = [name for name in self if key == name or key.startswith(name + "_")]
        return self[max(fitting, key=len)] if fitting else default


def _said(answer) -> dict[str, Any]:
    names = ("tokens", "forwards", "prefill_s", "decode_s", "finish_reason")
    return {"text": answer.answer, **{name: getattr(answer, name) for name in names}}


def _failed(reason: str) -> dict[str, Any]:
    return {"text": "", "finish_reason": "not asked", "error": reason}

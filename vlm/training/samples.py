"""Sample answers while a run goes on: the same few questions at every measurement, to read what the model learns.

Asked are held-out items, the first of those whose NELBO is measured: the playground's, or the recipe's own
``data.heldout``. Of one's own sources without held-out data it is their first samples, which training sees too. The
answers go to ``samples.jsonl``, each with the step, the question and the answer that was expected, and to TensorBoard
as text.
"""

from itertools import islice
from pathlib import Path

import numpy as np
import torch
from transformers.integrations import TensorBoardCallback
from transformers.trainer_utils import unwrap_peft_model

from data_pipelines.errors import DataError
from vision_encoders.pictures import joined
from vlm.answering import answer_batch, settings
from vlm.generation.request import Request
from vlm.layout import answer_spans
from vlm.training.data import Prepared
from vlm.training.heldout import heldout_samples
from vlm.training.lines import Lines
from vlm.training.precision import autocast

LONGEST = 64  # tokens of an answer
TRIED = 64  # of one's own samples, to find some that can be used


class SampleAnswers:
    """The sample answers of one run; its first process asks.

    Args:
        trainer: of the run; its recipe says how many questions.
    """

    def __init__(self, trainer):
        self.trainer = trainer
        self.lines = Lines(Path(trainer.args.output_dir) / "samples.jsonl")
        self._questions: list[Prepared] | None = None

    def write(self, step: int) -> None:
        """Ask, and add the answers to the run's records."""
        trainer = self.trainer
        if not trainer.recipe.sample_answers or not trainer.is_world_process_zero() or trainer.sharded:
            return
        if self._questions is None:
            self._questions = questions(trainer)
        if not self._questions:
            return
        model, was_training = unwrap_peft_model(trainer.model), trainer.model.training
        model.eval()
        with autocast(trainer.recipe.precision):
            answers = answered(model, trainer.processor, self._questions)
        model.train(was_training)
        for line in answers:
            self.lines.append({"step": step, **line})
        self._show(step, answers)

    def _show(self, step: int, answers: list[dict]) -> None:
        text = "\n\n".join(f"**{a['question']}**\n\n{a['answer']}\n\n(expected: {a['expected']})" for a in answers)
        for callback in self.trainer.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
                callback.tb_writer.add_text("samples", text, step)


def questions(trainer) -> list[Prepared]:
    """The samples whose first question is asked: as many as the recipe says, or all that can be used."""
    recipe, count = trainer.recipe, trainer.recipe.sample_answers
    if recipe.data.heldout or not recipe.data.sources:
        found = heldout_samples(recipe.data, trainer.processor, trainer.model.config.traits)
    else:
        found = (trainer.train_dataset.attempt(index) for index in range(TRIED))
    return list(islice((sample for sample in found if _usable(sample, trainer.processor)), count))


def _usable(sample: Prepared | DataError, processor) -> bool:
    """Whether there is a sample, and it shows nothing after its first answer."""
    if isinstance(sample, DataError):
        return False
    ids, (_, end) = sample.encoded.input_ids, answer_spans(sample.encoded.is_answer)[0]
    return not np.isin(ids[end:], (processor.image_token_id, processor.video_token_id)).any()


def answered(model, processor, samples: list[Prepared]) -> list[dict]:
    """Each sample's first question with the answer that was expected and the one that ``model`` gives."""
    config = settings(model, tokenizer=processor.tokenizer, max_new_tokens=LONGEST)
    found = answer_batch(model, processor, [_request(sample) for sample in samples], config)
    return [{**_asked(processor, sample), "answer": said.answer} for sample, said in zip(samples, found)]


def _asked(processor, sample: Prepared) -> dict[str, str]:
    ids, (start, end) = sample.encoded.input_ids, answer_spans(sample.encoded.is_answer)[0]
    question, expected = (processor.decode(part).strip() for part in (ids[:start], ids[start:end]))
    return {"id": sample.encoded.id, "question": question, "expected": expected}


def _request(sample: Prepared) -> Request:
    """A sample up to its first answer; its media all stand before it."""
    encoded = sample.encoded
    start = answer_spans(encoded.is_answer)[0][0]
    images, frames = joined([encoded.images]), joined([encoded.frames])
    return Request(torch.from_numpy(encoded.input_ids[:start]), images, frames, media=encoded.media)

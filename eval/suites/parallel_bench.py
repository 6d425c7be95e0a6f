"""ParallelBench made anew: tasks that get hard when dependent tokens are written in one pass (Kang et al., 2025).

    python -m eval run --suite parallel_bench --limit 100 --threshold 0.5

Thirteen of the published seventeen tasks, items and wording our own: ten edits of a list, Latin squares, 4 x 4 sudokus
and words to a sentence; the four left out need data sets and learned judges. Each is asked as text and, as
``TASK_image``, with the same item drawn in a picture. Score against tokens per forward, over several thresholds, is
what the benchmark is about: ``compare`` draws it.

The deciding choice: an item is a function of (task, seed, index), so that an answer is judged by its item's rule, made
again. The score is strict: the answer in the form asked for and nothing else. The loose score, beside it in every
record and table, reads the answer out of whatever stands around it.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from data_pipelines.playground import lists
from data_pipelines.playground.base import Item, Turn, pick, stream
from data_pipelines.playground.edits import EDITS
from data_pipelines.record import image_part, text_part
from eval.metrics.lists import legal_edit, list_in, loose_list_in
from eval.metrics.sentence import is_loosely_sentence_of, is_sentence_of
from eval.metrics.squares import is_latin_square, loose_square_in, solves_sudoku, square_in
from eval.suites.base import Question, Suite, short_pair

DRAWN = "_image"
TASKS = (*lists.TASKS, "sentence")
FAMILIES = tuple(task + form for task in TASKS for form in ("", DRAWN))

WORDS = (1, 5)  # given for a sentence
NOUNS = (
    "angle animal apple arrow balance balloon baby badge ball banana basket bear bell bench bird blanket boat "
    "bottle box bridge bucket camel camera candle car carrot castle cat cloud coat cousin cow doctor dog door "
    "dragon drum eagle elephant engine farm feather fence fish flag flower forest fox frog garden gate giraffe "
    "girl goat guitar hammer hawk hill horse house island jacket jar journey judge kettle king kite kitchen "
    "ladder lamp lemon letter lion lizard machine map market medal mirror monkey mouse museum nest nurse onion "
    "orange owl palace panda pencil piano pilot planet pony puzzle queen rabbit river robot sailor shadow ship "
    "spider squirrel star student table temple tiger tower train tree truck tunnel turtle umbrella uncle valley "
    "village violin wagon whale window wolf yard zebra"
).split()
ASKED = (
    "Write one English sentence with all of the given words.",
    "Use every given word in a single English sentence.",
    "Make a sentence that holds all given words, unchanged.",
)
SHOWING = ("We can see {} in this picture.", "Yesterday I dreamed of {}.", "There is a story about {}.")


def suite(seed: int) -> Suite:
    """The held-out items of one seed."""

    def questions(family: str, indices: Sequence[int]) -> Iterator[Question]:
        return (question(family, seed, index) for index in indices)

    def score(asked: Question, answer: str) -> tuple[float, None]:
        return judged(asked.family, seed, asked.index, answer), None

    def loose(asked: Question, answer: str) -> float:
        return judged(asked.family, seed, asked.index, answer, loosely=True)

    metrics = dict.fromkeys(FAMILIES, "strict")
    return Suite("parallel_bench", seed, {}, metrics, questions, score, short_pair, loose)


def question(family: str, seed: int, index: int) -> Question:
    """Item ``index`` of a task, as text or drawn."""
    made = posed(family.removesuffix(DRAWN), seed, index, rendered=family.endswith(DRAWN))
    turn = made.turns[0]
    content = [*map(image_part, made.media), text_part(turn.question)]
    return Question(family, index, [{"role": "user", "content": content}], made.media, turn.question, turn.answer)


def posed(task: str, seed: int, index: int, rendered: bool) -> Item:
    """An item of the held-out stream; both forms have the same puzzle and the same right answer."""
    rng = stream(f"parallel_bench/{task}", "heldout", seed, index)
    return _sentence(rng, rendered) if task == "sentence" else lists.posed(rng, "heldout", task, rendered)


def judged(family: str, seed: int, index: int, answer: str, loosely: bool = False) -> float:
    """1 for a right answer, any that the task's rule allows, else 0."""
    task = family.removesuffix(DRAWN)
    item = _as_text(task, seed, index)
    if task == "sentence":
        return float((is_loosely_sentence_of if loosely else is_sentence_of)(answer, item.meta["given"]))
    if task in EDITS:
        return float(_edited(task, item, answer, loosely))
    rows = (loose_square_in if loosely else square_in)(answer)
    return float((is_latin_square if task == "latin_square" else solves_sudoku)(rows, item.meta["given"]))


def _edited(task: str, item: Item, answer: str, loosely: bool) -> bool:
    said = loose_list_in(answer) if loosely else list_in(answer)
    new = item.meta["asked"][0].get("new", "")
    return said is not None and legal_edit(task, said, item.meta["given"], list_in(item.turns[0].answer), new)


def _sentence(rng: np.random.Generator, rendered: bool) -> Item:
    """Nouns to be joined; the answer is a plain sentence about all of them."""
    count = int(rng.integers(WORDS[0], WORDS[1] + 1))
    given = [NOUNS[i] for i in rng.permutation(len(NOUNS))[:count].tolist()]
    *first, last = (f"the {noun}" for noun in given)
    said = pick(rng, SHOWING).format(f"{', '.join(first)} and {last}" if first else last)
    turn = Turn(pick(rng, ASKED), said, "sentence")
    return lists.shown(rng, "heldout", [turn], [[noun] for noun in given], {"given": given}, rendered)


@lru_cache(maxsize=4096)
def _as_text(task: str, seed: int, index: int) -> Item:
    return posed(task, seed, index, rendered=False)

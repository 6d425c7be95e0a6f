"""The vocabulary of the text families, and how facts about a picture become questions.

Every eighth word is kept for the held-out split, so that reading it cannot be recalling it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data_pipelines.playground.base import Split, Turn, phrase

WORDS = tuple(
    """
able about above across act add after again age ago air all almost alone along also always among and angle animal
ankle answer any apple april apron arch area arm army around arrow art ask at atlas atom aunt autumn awake away axe
baby back bacon badge bag bake balance ball bamboo banana band bank barn base basic basket bath battery beach bean
bear beauty bed bee before begin behind bell belong below belt bench berry best better big bike bird birthday bit
black blanket blind block blood blue board boat body bone book boot border born both bottle bottom bowl box boy
branch brave bread break breath brick bridge bright bring broken brother brown brush bubble bucket build bus bush
busy butter button buy by cabin cable cake calm camel camera camp can candle cap captain car card care carpet carrot
carry castle cat catch cave ceiling center chain chair chalk chance change cheap cheese chess chicken child choice
circle city class clean clear clever climb clock close cloth cloud coast coat coffee cold color come common cook
cool copper copy corn corner cost cotton count country cousin cover cow cream cross crowd crown cup curtain custom
cut daily dance danger dark daughter day deep deer desert desk dinner dish doctor dog dollar door double down dragon
draw dream dress drink drive drum dry duck dust each eagle early earth east easy eat edge eight elbow electric
elephant empty end energy engine enough enter equal evening event every exact example exit eye fabric face fact
factory fair fall family famous far farm fast father feather feed feel fence festival few field fifty figure film
find finger finish fire first fish five flag flame flat float floor flour flower fly follow food foot forest forget
fork forty forward four fox frame free fresh friend frog front frozen fruit full funny future game garden garlic
gate gentle gift giraffe girl give glad glass glove go goat gold good grape grass gravity gray great green grow
guest guitar hair half hall hammer hand handle happy harbor hard hat have hawk head health heart heavy height hello
help here hidden high hill history hold hole holiday home honest honey hope horse hospital hot hotel hour house how
human hundred hungry hunter ice idea in inch insect inside into iron island it ivory jacket jam jar jelly job join
joke journey judge juice july jump june jungle just keep kettle key kick kind king kitchen kite knee knife knot know
ladder lady lake lamp land language large last late laugh lazy leader leaf learn leather left leg lemon lesson
letter level library life light lime line lion lip list listen little live lizard local lock long look lost loud
love low lucky lunch machine magic magnet mail main make man many map march market mask match may meal measure meat
medal meet melon metal middle mile milk million mind minute mirror model modern moment money monkey month moon more
morning most mother motor mountain mouse mouth move movie much muscle museum music my name narrow nation nature near
neck needle nest never new next nice night nine no noise none north nose note nothing novel now number nurse nut
ocean of off office often oil old olive on once one onion only open orange orchard order other our out oven over owl
own page paint pair palace pan panda paper parent park part party pass past path pattern peace peach pear pen
pencil people pepper perfect person pet phone photo piano picnic picture piece pig pilot pin pink pipe pizza place
plain planet plant plate play please plenty plum pocket poem point polar police polite pond pony pool poor popular
potato pound power present pretty price prince print prize problem public pull pumpkin pupil purple push puzzle
quality quarter queen question quick quiet quite rabbit race radio rail rain rainbow read ready real record red
repair rest rice rich ride right ring ripe river road robot rock roof room root rope rose round row royal rubber
rule run sad safe sail salad salt same sand sandwich save scale school science score sea season seat second secret
see seed sell send seven shadow shallow share sharp sheep shell shine ship shirt shoe shop short shoulder show
shower sign silent silk silver simple sing sister six size skin sky sleep slow small smart smile smoke snake snow so
soap sock soft soil solid some son song soon sound soup south space speak special speed spider spoon sport spring
square squirrel stable stage stair stamp stand star start station stay steam steel step stone stop store storm story
straight strange street string strong student subject sudden sugar summer sun sunset sure surface sweet swim table
tail talk tall taste tea teach team teeth temple ten tent test thank theater thick thin thing think third thirty
thousand three thunder ticket tidy tie tiger time tiny title to today together tomato tomorrow tongue tool top total
touch towel tower town toy track trade traffic train travel treasure tree triangle trip truck true trust try tunnel
turn turtle twelve twenty two ugly umbrella uncle under uniform up upper use useful valley value van vase vegetable
velvet very view village violin visit voice wagon wait walk wall walnut want warm wash watch water wave way weather
wedding week weight welcome well west wet whale wheat wheel when where whisper white who whole why wide wild win
wind window wing winter wise wish with wolf woman wonder wood wool word work world worry write yard year yellow yes
yesterday yogurt you young zebra zero zone
""".split()
)
KEPT = {
    "heldout": tuple(word for i, word in enumerate(WORDS) if i % 8 == 7),
    "train": tuple(word for i, word in enumerate(WORDS) if i % 8 != 7),
}


def word(rng: np.random.Generator, split: Split) -> str:
    """A lower-case word: for training one of its own, held out one of either kind with equal chance."""
    pool = KEPT["heldout" if split == "heldout" and rng.random() < 0.5 else "train"]
    return pool[int(rng.integers(len(pool)))]


EVERYTHING = 0.75  # how often a training item's last turn asks for all there is to see


@dataclass(frozen=True)
class Fact:
    """Something true of a picture: the kind of question it answers, the answer, what fills the question's slots."""

    kind: str
    answer: str
    slots: dict[str, Any] = field(default_factory=dict)


def ask(
    rng: np.random.Generator,
    split: Split,
    family: str,
    phrasings: Mapping[str, Sequence[str]],
    facts: Sequence[Fact],
    n_turns: int,
    everything: Fact | None = None,
    training_only: Mapping[str, Sequence[str]] | None = None,
) -> tuple[list[Turn], list[dict[str, Any]]]:
    """``n_turns`` turns, the first about ``facts[0]``, then the others in random order, then all again reworded.

    In training ``everything`` is mostly the last turn, or the only one: an answer that tells all there is to see
    teaches a model to look, as a description does of a scene. Earlier in a chat, others could be copied from it.
    ``training_only`` are further wordings by kind of question, see `phrase`.

    Returns the turns and, for ``meta``, what each asked: ``{"kind", **slots}``.
    """
    order = [0, *(rng.permutation(len(facts) - 1) + 1).tolist()]
    if everything is not None and split == "train" and rng.random() < EVERYTHING:
        facts, order = [*facts, everything], [*_cycle(order, n_turns - 1), len(facts)]
    turns: list[Turn] = []
    asked: list[dict[str, Any]] = []
    seen: set[str] = set()
    for i in range(n_turns):
        fact = facts[order[i % len(order)]]
        further = (training_only or {}).get(fact.kind, ())
        question = _unseen(rng, split, phrasings[fact.kind], further, fact.slots, seen)
        turns.append(Turn(question, fact.answer, family))
        asked.append({"kind": fact.kind, **fact.slots})
        seen.add(question)
    return turns, asked


def _cycle(order: list[int], count: int) -> list[int]:
    return [order[i % len(order)] for i in range(count)]


def _unseen(
    rng: np.random.Generator,
    split: Split,
    phrasings: Sequence[str],
    training_only: Sequence[str],
    slots: dict[str, Any],
    seen: set[str],
) -> str:
    """A wording not used before in this item, unless six draws find none."""
    for _ in range(6):
        question = phrase(rng, phrasings, split, training_only, **slots)
        if question not in seen:
            break
    return question

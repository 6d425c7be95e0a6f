"""Whether an answer is one sound English sentence that holds all the given words, by rules that can be counted off.

The published benchmark leaves grammar to a program of its own; these rules are far fewer. They find what parallel
decoding breaks: words left out, doubled or torn from their articles, sentences that do not begin or do not end. What
keeps to them may still be odd English. Strictly, the answer is the sentence and nothing else. Loosely, its first line
counts, without quotes, and a missing capital or full stop is forgiven.
"""

import re
from collections.abc import Sequence

LONGEST = 40  # words
OTHERS = 2  # words beside the given ones that a sentence needs

_FORM = re.compile(r"[A-Z][\w'’-]*(?:[,;:]? [\w'’-]+)*[.!?]")
_WORD = re.compile(r"[\w'’-]+")
ARTICLES = frozenset("a an the my your our their every".split())
JOINING = frozenset("and or but because if of".split())
NEVER_NEXT = ARTICLES | JOINING | frozenset("is are was were am has had i you he she it we they".split())
TWICE = frozenset(("had", "that"))  # rightly doubled now and then
AN_BEFORE = ("hour", "honest", "heir", "honor", "honour")
A_BEFORE = ("uni", "use", "usu", "euro", "one", "once", "ewe")
VERBS = frozenset(
    """
am are be is was were has have had do does did can could will would shall should may might must ate began blew bought
broke brought built came carry caught chose come cook cut drank draw drew drink drive drove eat fed feel fell felt find
flew fly forgot fought found gave get give go got grew grow have hear heard held help hid hold hope hung hurt keep kept
knew know laid lay led leave left let lie like live look lost love made make meet met need paid play put ran read rode
rose run said sang sat saw say see sell send sent set shone shook shot show sing sit slept smell sold spent spoke stand
stole stood stuck swam swim take talk taught tell think thought threw told took try turn understood use visit wait walk
want wash watch wear went woke won wore work write wrote
""".split()
)
NO_VERBS = frozenset("this his its as us yes always perhaps towards hers ours yours theirs bus gas red bed".split())


def is_sentence_of(answer: str, words: Sequence[str]) -> bool:
    """The strict score: no rule is broken."""
    return not broken_rules(answer.strip(), words)


def is_loosely_sentence_of(answer: str, words: Sequence[str]) -> bool:
    """The loose score: no rule is broken once the ends are mended."""
    return not broken_rules(_mended(answer), words)


def broken_rules(sentence: str, words: Sequence[str]) -> list[str]:
    """Names of the rules that a sentence breaks: form, words, length, twice, article, joint, verb.

    Args:
        words: in lower case; each must occur as a word of its own, in this very form.
    """
    said = [word.lower() for word in _WORD.findall(sentence)]
    rest = [word for word in said if word not in words]
    pairs = list(zip(said, said[1:]))
    sound = {
        "form": _FORM.fullmatch(sentence) is not None,
        "words": all(word in said for word in words),
        "length": len(rest) >= OTHERS and len(said) <= LONGEST,
        "twice": all(a != b or a in TWICE for a, b in pairs),
        "article": all(a != ("a" if _takes_an(b) else "an") for a, b in pairs),
        "joint": not any(a in ARTICLES and b in NEVER_NEXT for a, b in pairs) and not _hangs(said),
        "verb": any(map(_may_be_verb, rest)),
    }
    return [rule for rule, kept in sound.items() if not kept]


def _hangs(said: Sequence[str]) -> bool:
    """Whether the last word waits for another."""
    return bool(said) and said[-1] in ARTICLES | JOINING


def _takes_an(word: str) -> bool:
    """By spelling, with the common exceptions."""
    return word.startswith(AN_BEFORE) or (word[0] in "aeiou" and not word.startswith(A_BEFORE))


def _may_be_verb(word: str) -> bool:
    """By a list of common ones and by the ending; a plural passes for one too."""
    if word in VERBS or word.endswith(("n't", "n’t", "'s", "'re", "'m", "’s", "’re", "’m")):
        return True
    return word not in NO_VERBS and len(word) > 2 and (word.endswith("ed") or re.search(r"[^s]s$", word) is not None)


def _mended(answer: str) -> str:
    """The first line without quotes or marks around it, begun with a capital and ended."""
    line = next((line for line in answer.splitlines() if line.strip()), "").strip(" \t\"'`*“”‘’")
    line = line[:1].upper() + line[1:]
    return line if line.endswith((".", "!", "?")) else line + "."

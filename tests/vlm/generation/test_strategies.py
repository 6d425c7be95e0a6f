"""The tables of strategies: each is small and says where it comes from, and what does not go together is refused."""

import ast
import inspect
import itertools
import re
import textwrap

import pytest

from vlm.generation.commit import POLICIES
from vlm.generation.config import MODES
from vlm.generation.slots import CACHING, OTHERS, RANKS, RULES, SLOT_OF, SPANS, VERIFY, check_slots


def pairs(names) -> list[tuple[str, str]]:
    return list(itertools.combinations(names, 2))


@pytest.mark.parametrize("one, two", [*pairs(SPANS), *pairs(RANKS), *pairs(CACHING)])
def test_two_strategies_for_one_slot_are_refused_by_name(one, two):
    with pytest.raises(
        ValueError, match=f"^{one!r} and {two!r} both decide the (spans|rank|caching): give one of them$"
    ):
        check_slots({one: {}, two: {}}, "block")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SLOT_OF)
def test_a_strategy_in_a_mode_that_it_is_not_for_is_refused_by_both_names(name, mode):
    """Drafts are verified in one mode only, and open blocks are denoised in one; repetition ends any answer."""
    own = ("speculative",) if name in VERIFY else MODES if name == "repetition" else ("block",)
    if mode in own:
        return check_slots({name: {}}, mode)
    with pytest.raises(ValueError, match=f"^{name!r} works on .*, which mode {mode!r} does not"):
        check_slots({name: {}}, mode)


STRATEGIES = {**POLICIES, **RULES, **OTHERS, **SPANS, **CACHING, **VERIFY}
SOURCE = re.compile(r"arXiv|[0-9]{4}[.][0-9]{5}|Dream's generation code|DiffusionGemma|no published rule")


def _code(kind) -> list[str]:
    """Its lines of code."""
    source, told = textwrap.dedent(inspect.getsource(kind)), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            told.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = [line.strip() for number, line in enumerate(source.splitlines(), 1) if number not in told]
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_is_small_and_says_where_it_comes_from(name):
    """60 lines at most, texts, comments and blank lines aside; a source, here or at the head of its file."""
    kind = STRATEGIES[name]
    assert len(_code(kind)) <= 60
    about = kind.__doc__ + (inspect.getmodule(kind).__doc__ if name not in POLICIES else "")
    assert SOURCE.search(about), about

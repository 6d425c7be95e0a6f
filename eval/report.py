"""``report DIR``: a run as ``report.md`` and as a page of its own, ``index.html``.

Scores with their intervals, what decoding cost, what is confused with what, a few wrong answers with their pictures,
which are made again from (family, seed, index) or read again from the source, and which pass wrote what of the first
answer of every family.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.document import Block, Card, Decoded, Figure, Heading, Table, Text, picture_uris, to_html, to_markdown
from eval.output import load
from eval.plots import bars
from eval.record import ItemRecord, RunRecord
from eval.speed import of_families, of_runs
from eval.suites.base import Suite
from eval.suites.choose import suite_of
from eval.summary import by_family, has_loose, header, rows, summary, totals

CONFUSIONS = 5  # a family
EXAMPLES = 3  # a family
TRACES = 12
LISTED = 20  # items that were not asked


def report(directory: Path, beside: Sequence[Path] = ()) -> Path:
    """Write both files; returns the page's path.

    Args:
        beside: other runs over the same items, which stand with this one in the plot of score against speed.

    Raises:
        ValueError: a directory holds no results or cannot be written, or the runs have no items in common.
    """
    if (directory / "suite.yaml").is_file():
        from eval.lmms_plugin import summary as public

        return written(directory, "Public benchmarks", public.blocks(directory))
    run, records = load(directory)
    title = f"{run.suite} · {run.model} · {run.settings.get('mode')}"
    others = [load(path) for path in beside]
    speed = of_runs(_named([directory, *beside]), [(run, records), *others]) if beside else of_families(records)
    return written(directory, title, blocks(run, records, speed))


def _named(directories: Sequence[Path]) -> list[str]:
    """Their last names if these are different, else the whole ones."""
    short = [directory.name for directory in directories]
    return short if len({*short}) == len(short) else list(map(str, directories))


def written(directory: Path, title: str, content: Sequence[Block]) -> Path:
    """``report.md`` and ``index.html`` in a directory, which is made if need be; returns the page's path."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "report.md").write_text(to_markdown(title, content), encoding="utf-8")
        (directory / "index.html").write_text(to_html(title, content), encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{directory}: the report cannot be written ({error.strerror})") from error
    return directory / "index.html"


def blocks(run: RunRecord, records: list[ItemRecord], speed: Sequence[Block] = ()) -> list[Block]:
    families, suite, gone = by_family(records), *_suite(run)
    out: list[Block] = [Text(headline(run, records)), Figure(bars(summary(records)), "Scores and tokens per forward")]
    out += [Heading("Scores"), Table(header(records), rows(records))]
    out.append(Text(INTERVALS + (LOOSE if has_loose(records) else "")))
    out += [*([Heading("Score against speed"), *speed] if speed else []), *_not_asked(records)]
    wrong = {family: [r for r in items if r.score < 1 and r.error is None] for family, items in families.items()}
    out += _confusions(suite, wrong, families)
    out += [Heading("A few wrong answers"), *([Text(f"Without pictures: {gone}.")] if gone else [])]
    for items in wrong.values():
        out += [_card(suite, r) for r in _examples(suite, items)]
    out += _decoded(suite, records)
    return [*out, Heading("Settings"), settings_table(run), Heading("Hardware and software"), hardware_table(run)]


INTERVALS = (
    "Scores are percent. Intervals hold 95 % of 1000 resamplings of the items; where every item is right, or every "
    "one wrong, Wilson's interval stands instead. Tokens per forward: all generated tokens over all forward passes, "
    "prefill included. Cut off: answers that reached the length limit."
)
LOOSE = (
    " Strict: the share of answers that are right in the form asked for, with nothing beside it. Loose: the share of "
    "those that are right when read out of whatever stands around them."
)


def headline(run: RunRecord, records: Sequence[ItemRecord]) -> str:
    total = totals(records)
    decoding = f"mode {run.settings.get('mode')}" + (f", {q}" if (q := run.settings.get("quantize")) else "")
    families = len(by_family(records))
    return (
        f"{total['n']} items, {decoding}: {total['score']:.1f} % ({total['low']:.1f} – {total['high']:.1f})"
        f"{f' on average over {families} families' if families > 1 else ''}, "
        f"{total['tokens_per_forward']} tokens per forward, {total['forwards']} forwards, {total['seconds']:.1f} s."
    )


def settings_table(run: RunRecord) -> Table:
    shown = {
        "model": run.model,
        "weights": run.model_hash,
        "items per family": run.limit,
        "seed of the items": run.seed,
    }
    shown |= {"batch size": run.batch_size, **run.items}
    shown |= {"sampling seed" if key == "seed" else key: value for key, value in run.settings.items()}
    return Table(("setting", "value"), [(key, value) for key, value in shown.items() if value is not None])


def hardware_table(run: RunRecord) -> Table:
    shown: dict[str, Any] = {**run.hardware, "code": run.code, **run.libraries, "record version": run.version}
    return Table(("", "value"), [(key, value) for key, value in shown.items() if value is not None])


def _suite(run: RunRecord) -> tuple[Suite | None, str]:
    """The run's suite, or why it is not there any more."""
    try:
        return suite_of(run), ""
    except (ValueError, OSError) as error:
        return None, str(error)


def _not_asked(records: Sequence[ItemRecord]) -> list[Block]:
    failed = [r for r in records if r.error is not None]
    if not failed:
        return []
    lines = [(r.family, r.index, r.error) for r in failed[:LISTED]]
    more = [Text(f"… and {len(failed) - LISTED} more, see items.jsonl.")] if len(failed) > LISTED else []
    return [Heading("Not asked, counted as wrong"), Table(("family", "index", "why"), lines), *more]


def _pairs(suite: Suite | None, record: ItemRecord) -> list[tuple[str, str]]:
    return suite.confused(record) if suite is not None else [(record.expected, record.answer)]


def _confusions(suite: Suite | None, wrong: dict[str, list[ItemRecord]], families: dict) -> list[Block]:
    lines = []
    for family, items in wrong.items():
        counted = Counter(pair for record in items for pair in _pairs(suite, record)).most_common(CONFUSIONS)
        lines += [(family, right, said or "(nothing)", n, len(families[family])) for (right, said), n in counted]
    if not lines:
        return [Heading("Confusions"), Text("No wrong answers.")]
    return [Heading("Most frequent confusions"), Table(("family", "right", "said", "times", "items"), lines)]


def _examples(suite: Suite | None, wrong: list[ItemRecord]) -> list[ItemRecord]:
    """Items that show a family's most frequent confusions, one each; the first wrong ones if there are too few."""
    pairs = {record.index: _pairs(suite, record) for record in wrong}
    common = Counter(pair for found in pairs.values() for pair in found).most_common(EXAMPLES)
    chosen: dict[int, ItemRecord] = {}
    for shown in [*(pair for pair, _ in common), *[None] * EXAMPLES]:
        fitting = (r for r in wrong if r.index not in chosen and (shown is None or shown in pairs[r.index]))
        if (record := next(fitting, None)) is not None:
            chosen[record.index] = record
    return list(chosen.values())[:EXAMPLES]


def _card(suite: Suite | None, record: ItemRecord) -> Card:
    title = f"{record.family} {record.index} · {100 * record.score:.0f} %"
    return Card(title, _pictures(suite, record), record.question, record.expected, record.answer)


def _decoded(suite: Suite | None, records: Sequence[ItemRecord]) -> list[Block]:
    """What was followed while it was decoded, at most `TRACES` answers."""
    followed = [record for record in records if record.trace is not None][:TRACES]
    if not followed:
        return []
    shown = [Decoded(_cost(r), _pictures(suite, r), r.question, _tokens(r.trace)) for r in followed]
    return [Heading("How answers were decoded"), Text(TINTED), *shown]


TINTED = "Tokens of one tint were written by the same forward pass; tints repeat after eight passes."


def _cost(record: ItemRecord) -> str:
    return f"{record.family} {record.index} · {_so_many(record.tokens, 'token')} in " + _so_many(
        record.forwards, "forward"
    )


def _so_many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _tokens(trace: dict[str, Any]) -> list[tuple[str, int, float]]:
    """The answer's tokens, each with the last pass that wrote it; those that took no pass belong to pass 0."""
    passes = {place: step["forward"] for step in trace["steps"] for place, *_ in step["written"]}
    return [
        (token, passes.get(place, 0), sure)
        for place, (token, sure) in enumerate(zip(trace["tokens"], trace["confidence"]))
    ]


def _pictures(suite: Suite | None, record: ItemRecord) -> list[str]:
    asked = next(iter(suite.questions(record.family, [record.index])), None) if suite is not None else None
    return picture_uris(asked.media) if asked is not None else []

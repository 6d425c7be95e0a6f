"""A report as a list of blocks, written as Markdown or as one web page that needs nothing from elsewhere.

The deciding choice: a report is composed once, of a few kinds of blocks, and each has two spellings. The page holds
its style and its pictures inside, no script, and a content policy that lets nothing be loaded.
"""

import base64
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

LONGEST_SIDE = 240  # pixels
FRAMES = 4  # of a video

STYLE = """
:root { --ink: #1d2433; --soft: #667085; --line: #e4e7ec; --back: #f7f8fa; --good: #177245; --bad: #b42318; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); margin: 0; }
main { max-width: 62rem; margin: 2rem auto; padding: 2rem 2.5rem; background: #fff; border: 1px solid var(--line);
       border-radius: 10px; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p { color: var(--soft); margin: .4rem 0; max-width: 48rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0; }
th, td { padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { color: var(--soft); font-weight: 600; font-size: .85rem; white-space: nowrap; }
td.number, th.number { text-align: right; white-space: nowrap; }
td { overflow-wrap: anywhere; } td:first-child { white-space: nowrap; }
figure { margin: 1rem 0; } figure img { max-width: 100%; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1rem; }
.card { border: 1px solid var(--line); border-radius: 8px; padding: .8rem; }
.card img { max-width: 100%; max-height: 11rem; border-radius: 4px; margin-right: .3rem; }
.card h3 { font-size: .85rem; color: var(--soft); margin: 0 0 .4rem; font-weight: 600; }
.card dl { margin: .5rem 0 0; display: grid; grid-template-columns: auto 1fr; gap: .15rem .6rem; font-size: .9rem; }
.card dt { color: var(--soft); } .card dd { margin: 0; overflow-wrap: anywhere; white-space: pre-line; }
dd.right { color: var(--good); } dd.wrong { color: var(--bad); }
pre { background: var(--back); border: 1px solid var(--line); border-radius: 6px; padding: .6rem;
      overflow-x: auto; }
.decoded { border-top: 1px solid var(--line); padding: .8rem 0; }
.decoded h3 { font-size: .85rem; color: var(--soft); margin: 0 0 .4rem; font-weight: 600; }
.asked { white-space: pre-line; }
.decoded img { max-height: 7rem; border-radius: 4px; margin-right: .3rem; }
.decoded span { white-space: pre-wrap; border-radius: 3px; padding: .1rem 0; margin-right: 1px; line-height: 1.9; }
.p0 { background: #dbe6fb; } .p1 { background: #fbe8d3; } .p2 { background: #d9f0e1; } .p3 { background: #f3dcee; }
.p4 { background: #fdf3c4; } .p5 { background: #d8eff3; } .p6 { background: #e9e2fa; } .p7 { background: #f6d9d5; }
"""
TINTS = 8  # classes p0 … p7 above


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Table:
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Figure:
    """A plot as a data URI, and what it shows in words; ``file`` is where Markdown finds it, if anywhere."""

    uri: str
    caption: str
    file: str = ""


@dataclass(frozen=True)
class Card:
    """An item that went wrong: its pictures as data URIs, what was asked, right and said."""

    title: str
    pictures: Sequence[str]
    asked: str
    expected: str
    said: str


@dataclass(frozen=True)
class Code:
    """Lines as they are typed."""

    text: str


@dataclass(frozen=True)
class Decoded:
    """An answer's tokens in order, each with the pass that wrote it and how sure it was then."""

    title: str
    pictures: Sequence[str]
    asked: str
    tokens: Sequence[tuple[str, int, float]]


Block = Heading | Text | Table | Figure | Card | Code | Decoded


def to_html(title: str, blocks: Sequence[Block]) -> str:
    body, cards = [], []
    for block in [*blocks, None]:
        if isinstance(block, Card):
            cards.append(_card(block))
            continue
        if cards:
            body.append(f'<div class="cards">{"".join(cards)}</div>')
            cards = []
        if block is not None:
            body.append(_html(block))
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_safe(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{_safe(title)}</h1>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def to_markdown(title: str, blocks: Sequence[Block]) -> str:
    """The same without pictures, and with the plots that have a file."""
    return "\n\n".join([f"# {_plain(title)}", *filter(None, map(_markdown, blocks))]) + "\n"


def figure_uri(data: bytes, kind: str) -> str:
    """``kind`` is a media type, ``image/png``."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def picture_uris(media: Sequence[Any]) -> list[str]:
    """An item's media, scaled down: images, and of a video a few frames from first to last."""
    shown = [picture for m in media for picture in (_spread(m) if isinstance(m, list) else [m])]
    return [_picture_uri(picture) for picture in shown]


def _spread(frames: list[Image.Image]) -> list[Image.Image]:
    count = min(FRAMES, len(frames))
    return [frames[round(i * (len(frames) - 1) / max(1, count - 1))] for i in range(count)]


def _picture_uri(picture: Image.Image) -> str:
    small = picture.convert("RGB")
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    out = io.BytesIO()
    small.save(out, "PNG", optimize=True)
    return figure_uri(out.getvalue(), "image/png")


def _html(block: Block) -> str:
    match block:
        case Heading(text):
            return f"<h2>{_safe(text)}</h2>"
        case Text(text):
            return f"<p>{_safe(text)}</p>"
        case Figure(uri, caption, _):
            return f'<figure><img src="{uri}" alt="{_safe(caption)}"></figure>'
        case Table(header, rows):
            return _table(header, rows)
        case Code(text):
            return f"<pre>{html.escape(text)}</pre>"
        case Decoded():
            return _decoded(block)


def _decoded(block: Decoded) -> str:
    """Tokens of one pass have one tint; passes in turn, which repeat after the last."""
    pictures = "".join(f'<img src="{uri}" alt="">' for uri in block.pictures)
    tokens = "".join(
        f'<span class="p{number % TINTS}" title="pass {number}, {_sure(sure)}">{html.escape(_printable(token))}</span>'
        for token, number, sure in block.tokens
    )
    head = f'<h3>{_safe(block.title)}</h3>{pictures}<p class="asked">{_in_lines(block.asked)}</p>'
    return f'<div class="decoded">{head}<div>{tokens}</div></div>'


def _sure(sure: float | None) -> str:
    return "–" if sure is None else f"{100 * sure:.0f} % sure"


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns that hold nothing but numbers stand to the right."""
    columns = [all(_is_number(row[i]) for row in rows) for i in range(len(header))]
    kinds = [' class="number"' if number else "" for number in columns]
    head = "".join(f"<th{kind}>{_safe(cell)}</th>" for kind, cell in zip(kinds, header))
    lines = ("".join(f"<td{kind}>{_safe(cell)}</td>" for kind, cell in zip(kinds, row)) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _card(card: Card) -> str:
    pictures = "".join(f'<img src="{uri}" alt="">' for uri in card.pictures)
    lines = (("asked", card.asked, ""), ("right", card.expected, "right"), ("said", card.said or "(nothing)", "wrong"))
    facts = "".join(f'<dt>{name}</dt><dd class="{kind}">{_in_lines(text)}</dd>' for name, text, kind in lines)
    return f'<div class="card"><h3>{_safe(card.title)}</h3>{pictures}<dl>{facts}</dl></div>'


def _markdown(block: Block) -> str:
    match block:
        case Heading(text):
            return f"## {_plain(text)}"
        case Text(text):
            return _plain(text)
        case Figure(_, caption, file):
            return f"![{_plain(caption)}]({file})" if file else ""
        case Card(title, _, asked, expected, said):
            asked, expected, said = map(_plain, (asked, expected, said or "(nothing)"))
            return f"- **{_plain(title)}**: {asked} Right: {expected} Said: {said}"
        case Code(text):
            return f"```\n{text}\n```"
        case Decoded(title, _, asked, tokens):
            passes = {number: "".join(t for t, n, _ in tokens if n == number) for _, number, _ in tokens}
            steps = " · ".join(f"{number}: {_plain(passes[number])}" for number in sorted(passes))
            return f"- **{_plain(title)}**: {_plain(asked)} By pass: {steps}"
        case Table(header, rows):
            lines = [header, ["---"] * len(header), *rows]
            return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: Any) -> str:
    return _plain(value).replace("|", "\\|")


def _plain(value: Any) -> str:
    """One line of text in which Markdown finds no markup."""
    return re.sub(r"([\\`*_<>#\[\]])", r"\\\1", _clean(value))


def _safe(value: Any) -> str:
    return html.escape(_clean(value))


def _in_lines(text: str) -> str:
    """Text with the line ends that it has, which a style shows: grids stay grids."""
    return "\n".join(map(_safe, text.splitlines()))


def _clean(value: Any) -> str:
    """On one line, without characters that a UTF-8 file or a page cannot hold."""
    return _printable(" ".join(str(value).split()))


def _printable(text: str) -> str:
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text)


def _is_number(value: Any) -> bool:
    return re.fullmatch(r"[-+]?[\d.]+(( –| →) [-+]?[\d.]+)?", str(value)) is not None

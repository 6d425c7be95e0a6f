"""Documents: receipts with items, prices and a true total, and forms of keys and values.

The deciding choice: a page is made of rows (left text, right text) first; the canvas is then framed around them.
"""

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from data_pipelines.playground import canvas
from data_pipelines.playground.base import Item, Split, pick
from data_pipelines.playground.words import Fact, ask

Row = tuple[str, str]  # left and right text; a lone left is centred

FAMILY = "documents"
LEADING = 1.22  # row height in em
WIDEST = 10.6  # em: the widest row, so that the page stays within canvas.LIMIT with its margins

ITEMS = (
    "Tea Milk Bread Apple Soup Cake Rice Fish Egg Salad Juice Pasta Honey Water Pizza Cheese Butter Coffee Lemon Pear "
    "Plum Corn Beans Salt Soap Pen Book Lamp Rope Nails Paint Glue Hat Socks Belt Cup Bowl Plate Fork Candle"
).split()
SHOP_STARTS = "Blue Green Red Sunny Old New River Corner City Royal Happy Lucky".split()
SHOP_ENDS = "Cafe Shop Market Store Bakery Deli Books Bar".split()
FORMS = "Order Ticket Booking Member Visit Permit Library Parcel".split()
NAMES = "Anna Ben Clara David Emma Frank Grace Henry Ida Jack Kate Leo Mia Noah Olga Paul Rosa Sam Tina Vera".split()
CITIES = "Rome Paris Berlin Oslo Lima Cairo Delhi Tokyo Madrid Vienna Boston Dublin Prague Quito Athens Seoul".split()
MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()

PHRASINGS = {
    "total": (
        "What is the total?",
        "What is the total amount?",
        "How much is it in total?",
        "How much is the total?",
        "Read the total.",
        "What does everything cost together?",
        "What is the sum to pay?",
        "Which total is printed?",
        "How much has to be paid?",
    ),
    "price": (
        "What does {item} cost?",
        "How much is {item}?",
        "What is the price of {item}?",
        "How much does {item} cost?",
        "Which price is printed for {item}?",
        "What is paid for {item}?",
    ),
    "date": (
        "What is the date?",
        "Which date is printed?",
        "What date is written here?",
        "Read the date.",
        "Which date do you see?",
        "What date does it show?",
    ),
    "items": (
        "How many items are there?",
        "How many items are listed?",
        "Count the items.",
        "How many items were bought?",
        "What is the number of items?",
        "How many different items do you see?",
    ),
    "shop": (
        "Which shop is this from?",
        "What is the name of the shop?",
        "Which shop is it?",
        "What is the shop called?",
        "Read the name of the shop.",
        "What shop name is printed at the top?",
    ),
    "title": (
        "What is the title?",
        "What is the title of the form?",
        "Read the title.",
        "What does the heading say?",
        "What kind of form is it?",
        "Which title is printed at the top?",
    ),
    "field": (
        "What is the {key}?",
        "Which {key} is written?",
        "Read the {key}.",
        "What does it say for {key}?",
        "Which {key} do you see?",
        "What {key} is given?",
    ),
    "bought": (
        "Is {item} on the receipt?",
        "Does the receipt list {item}?",
        "Is {item} listed?",
        "Was {item} bought?",
        "Do you see {item} on the receipt?",
        "Is there {item} on the list?",
    ),
    "everything": (
        "Read the whole page.",
        "Write down everything that is printed.",
        "Copy the text of the page, line by line.",
        "What does the page say, from top to bottom?",
        "Read out all lines.",
        "Transcribe the document.",
    ),
    "dearest": (
        "Which item costs the most?",
        "What is the most expensive item?",
        "Which item has the highest price?",
        "Which item is the dearest?",
        "What costs the most?",
        "Name the most expensive item.",
    ),
}

TRAINING_ONLY = {
    "total": (
        "What do all the items cost together?",
        "What is everything worth together?",
        "What does it all cost?",
        "How much must be paid?",
        "What has to be paid here?",
        "What is to be paid for everything?",
        "How much money is it altogether?",
        "What amount is paid in the end?",
        "How much do they cost in total?",
        "Add it all up: how much has it cost?",
    ),
    "price": (
        "How much was paid for {item}?",
        "What has to be paid for {item}?",
        "Give the price of {item}.",
        "Which price does {item} have?",
        "What was the price of {item}?",
    ),
    "date": ("Which date is written here?", "Which date does it show?", "Give the date.", "Of which date is it?"),
    "items": ("Count what was bought.", "How many different things were bought?", "Say how many items you see."),
    "shop": ("Which shop was it?", "Name the shop.", "What shop is named at the top?", "What name is printed first?"),
    "title": (
        "Give the title.",
        "Which title is it?",
        "What title does the form have?",
        "Read what stands at the top.",
    ),
    "field": (
        "Which {key} is given?",
        "Give the {key}.",
        "Which is the {key}?",
        "What {key} is written?",
        "Tell me the {key}.",
    ),
    "bought": ("Is {item} on the list?", "Is {item} one of the items?", "Does the list have {item}?"),
}


def make(rng: np.random.Generator, split: Split, n_turns: int, max_side: int) -> Item:
    """One receipt or form and ``n_turns`` questions; the first asks for the total, or for a field of the form."""
    paper = canvas.style(rng, split)
    while True:  # a wide font or long names now and then do not fit: draw others
        page, rows = _receipt(rng, split) if rng.random() < 0.7 else _form(rng)
        widest = max(_width(row, paper.font) for row in rows)
        if widest <= WIDEST:
            break
    width, height, em = canvas.frame(rng, widest + 0.8, LEADING * len(rows) + 0.4, max_side)
    image = canvas.blank(width, height, paper)
    boxes = _write(rng, image, paper, rows, widest, em)
    facts = _receipt_facts(rng, page) if page["kind"] == "receipt" else _form_facts(rng, page)
    everything = Fact("everything", "; ".join(f"{key} {value}".strip() for key, value in rows))
    turns, asked = ask(rng, split, FAMILY, PHRASINGS, facts, n_turns, everything, TRAINING_ONLY)
    meta: dict[str, Any] = {**page, "rows": [list(row) for row in rows], "boxes": boxes, "em": em, "asked": asked}
    meta |= {"font": paper.font, "ink": paper.ink, "papers": [paper.background, paper.shade]}
    return Item([canvas.finish(rng, image)], "image", turns, meta)


def kept_shop(start: int, end: int) -> bool:
    """Whether a shop's name, start and end by number, is seen in held-out pictures only."""
    return (start + end) % 4 == 0


def _shop(rng: np.random.Generator, split: Split) -> str:
    while True:
        start, end = int(rng.integers(len(SHOP_STARTS))), int(rng.integers(len(SHOP_ENDS)))
        if kept_shop(start, end) == (split == "heldout"):
            return f"{SHOP_STARTS[start]} {SHOP_ENDS[end]}"


def _date(rng: np.random.Generator) -> str:
    day, month, year = int(rng.integers(1, 29)), int(rng.integers(1, 13)), int(rng.integers(2001, 2031))
    styles = (f"{day} {MONTHS[month - 1]}", f"{day:02}.{month:02}.{year % 100:02}", f"{day}/{month}/{year % 100:02}")
    return pick(rng, styles)


def _receipt(rng: np.random.Generator, split: Split) -> tuple[dict[str, Any], list[Row]]:
    """A receipt's facts as plain data, prices in cents, and its rows."""
    count = int(rng.integers(2, 6))
    items = [ITEMS[i] for i in rng.permutation(len(ITEMS))[:count].tolist()]
    step = pick(rng, (5, 10, 25, 50))
    cents = [int(rng.integers(1, 2000 // step + 1)) * step for _ in items]
    page: dict[str, Any] = {"kind": "receipt", "title": _shop(rng, split), "items": items, "cents": cents}
    page |= {"total": amount(sum(cents)), "fields": {}}
    if rng.random() < 0.5:
        page["fields"]["date"] = _date(rng)
    if rng.random() < 0.3:
        page["fields"]["number"] = str(int(rng.integers(10, 10000)))
    rows = [(page["title"], ""), *((key.title(), value) for key, value in page["fields"].items())]
    rows += [(item, amount(price)) for item, price in zip(items, cents, strict=True)]
    total = pick(rng, ("Total", "TOTAL", "Sum", "To pay"))
    return page, [*rows, (total, page["total"])]


def _form(rng: np.random.Generator) -> tuple[dict[str, Any], list[Row]]:
    """A form's facts as plain data and its rows."""
    values = {
        "name": pick(rng, NAMES),
        "date": _date(rng),
        "number": str(int(rng.integers(10, 10000))),
        "city": pick(rng, CITIES),
        "age": str(int(rng.integers(5, 90))),
        "room": str(int(rng.integers(1, 400))),
    }
    keys = [list(values)[i] for i in rng.permutation(len(values))[: int(rng.integers(2, 6))].tolist()]
    page = {"kind": "form", "title": pick(rng, FORMS), "fields": {key: values[key] for key in keys}}
    colon = pick(rng, (":", ""))
    return page, [(page["title"], ""), *((key.title() + colon, values[key]) for key in keys)]


def amount(cents: int) -> str:
    """Cents as money with two decimals: 750 is ``7.50``."""
    return f"{cents // 100}.{cents % 100:02}"


def _width(row: Row, font: str) -> float:
    left, right = row
    return canvas.width_em(left, font) + (canvas.width_em(right, font) + 0.7 if right else 0.0)


def _write(
    rng: np.random.Generator, image: Image.Image, paper: canvas.Style, rows: list[Row], widest: float, em: float
) -> list[list[int]]:
    """Draw the rows as one column somewhere on the page; returns the box of each text in pixels."""
    draw, face = ImageDraw.Draw(image), canvas.font(paper.font, em)
    spare = max(0.0, image.width - (widest + 0.8) * em)
    span = widest * em + spare * rng.uniform(0.0, 0.8)
    left = 0.4 * em + (image.width - 0.8 * em - span) * rng.uniform(0.0, 1.0)
    pitch = (image.height - 0.4 * em) / len(rows)
    pitch = rng.uniform(min(LEADING * em, pitch), min(1.9 * em, pitch))
    top = 0.2 * em + (image.height - 0.4 * em - pitch * len(rows)) * rng.uniform(0.0, 1.0)
    close, boxes = rng.random() < 0.25, []  # values close behind their keys, or flush right
    for i, (key, value) in enumerate(rows):
        y = top + (i + 0.5) * pitch
        x, anchor = (left, "lm") if value else (left + span / 2, "mm")
        color = paper.accent if i == 0 else paper.ink
        boxes.append(canvas.write(draw, (x, y), key, color, face, anchor))
        if value and close and value.count(".") != 1:  # prices stay flush right
            behind = (left + (canvas.width_em(key, paper.font) + 0.6) * em, y)
            boxes.append(canvas.write(draw, behind, value, color, face, "lm"))
        elif value:
            boxes.append(canvas.write(draw, (left + span, y), value, color, face, "rm"))
    for y in (top + pitch, top + pitch * (len(rows) - 1)):  # rules under the title and above the last row
        if rng.random() < 0.5:
            draw.line((left, y, left + span, y), fill=paper.accent, width=max(1, round(0.05 * em)))
    return boxes


def _receipt_facts(rng: np.random.Generator, page: dict[str, Any]) -> list[Fact]:
    """The total first, or now and then a price, the date or the shop."""
    items, cents = page["items"], page["cents"]
    prices = [Fact("price", amount(c), {"item": i}) for i, c in zip(items, cents, strict=True)]
    facts = [Fact("total", page["total"]), prices[int(rng.integers(len(prices)))], Fact("shop", page["title"])]
    facts += [_field(key, value) for key, value in page["fields"].items()]
    first = 0 if rng.random() < 0.5 else int(rng.integers(len(facts)))
    absent = pick(rng, [item for item in ITEMS if item not in items])
    rest = [Fact("items", str(len(items))), *(price for price in prices if price is not facts[1])]
    rest += [Fact("bought", "yes", {"item": pick(rng, items)}), Fact("bought", "no", {"item": absent})]
    if cents.count(max(cents)) == 1:
        rest.append(Fact("dearest", items[cents.index(max(cents))]))
    return [facts[first], *facts[:first], *facts[first + 1 :], *rest]


def _form_facts(rng: np.random.Generator, page: dict[str, Any]) -> list[Fact]:
    facts = [*(_field(key, value) for key, value in page["fields"].items()), Fact("title", page["title"])]
    first = int(rng.integers(len(facts)))
    return [facts[first], *facts[:first], *facts[first + 1 :]]


def _field(key: str, value: str) -> Fact:
    return Fact("date", value) if key == "date" else Fact("field", value, {"key": key})

"""`--trace FILE`: a decoding run's record as JSON for tools, or as one web page that replays it.

The deciding choice: the page is a fixed template (`vlm/assets/trace.html`) around the very record that the JSON file
holds. Its script writes text nodes only, and its content policy admits that one script by its hash, so no token text
can become markup, and nothing is loaded from elsewhere.
"""

import base64
import hashlib
import html
import io
import json
import math
import re
from pathlib import Path
from string import Template

from PIL import Image

from data_pipelines.errors import DataError

TEMPLATE = Path(__file__).parent.parent / "assets" / "trace.html"
LONGEST_SIDE = 320  # pixels


def check_trace_path(path: str | Path) -> None:
    """Refuse a trace file that could not be written, before anything is decoded.

    Raises:
        DataError: its name ends in neither .html nor .json, or its folder is not there.
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".json"):
        raise DataError(f"trace file {path} must end in .html or .json")
    if not path.parent.is_dir():
        raise DataError(f"trace file {path}: there is no folder {path.parent}")


def write_trace(path: str | Path, record: dict, prompt: str, pictures: list[Image.Image]) -> None:
    """Write a record, and the prompt with it, to a ``.json`` or ``.html`` file.

    Args:
        record: see `vlm.generation.trace.Trace.record`; a confidence that is not a number becomes null.
        prompt: the question, as the page shows it.
        pictures: images and video frames in reading order; only the page holds them, scaled down.

    Raises:
        DataError: see `check_trace_path`, or the file cannot be written.
    """
    check_trace_path(path)
    record = _finite({**record, "prompt": prompt})
    if Path(path).suffix.lower() == ".json":
        text = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
    else:
        text = _page(record, pictures)
    try:
        Path(path).write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"trace file {path} cannot be written ({error.strerror})") from error


def _page(record: dict, pictures: list[Image.Image]) -> str:
    template = TEMPLATE.read_text(encoding="utf-8")
    script = re.search(r"<script>(.*?)</script>", template, re.DOTALL)[1]
    return Template(template).substitute(
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        counts="".join(f"<div><dt>{name}</dt><dd>{html.escape(str(n))}</dd></div>" for name, n in _counts(record)),
        pictures=_gallery(pictures),
        prompt=html.escape(record["prompt"]),
        answer=html.escape("".join(record["tokens"])),
        rows="\n".join(_rows(record)),
        record=_script_data(record),
    )


def _script_data(record: dict) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(record, allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _counts(record: dict) -> list[tuple[str, object]]:
    tokens, forwards = len(record["tokens"]), record["forwards"]
    rate = f"{tokens / forwards:.2f}" if forwards else "–"
    return [("tokens", tokens), ("forward passes", forwards), ("tokens per pass", rate), ("mode", record["mode"])]


def _rows(record: dict) -> list[str]:
    """A table row for every token of the answer: what a reader without JavaScript gets."""
    passes = {place: step["forward"] for step in record["steps"] for place, *_ in step["written"]}
    rows = []
    for place, (token, confidence) in enumerate(zip(record["tokens"], record["confidence"], strict=True)):
        sure = "unknown" if confidence is None else f"{confidence:.1%}"
        piece = html.escape(token.replace("\n", "↵"))
        number = passes.get(place, "–")
        rows.append(f'<tr><td>{place + 1}</td><td class="piece">{piece}</td><td>{number}</td><td>{sure}</td></tr>')
    return rows


def _gallery(pictures: list[Image.Image]) -> str:
    images = [f'<img src="{_data_uri(p)}" alt="Picture {n} of {len(pictures)}">' for n, p in enumerate(pictures, 1)]
    return f'<div class="pictures">{"".join(images)}</div>' if images else ""


def _data_uri(picture: Image.Image) -> str:
    """A small copy, as PNG or JPEG, whichever is shorter: flat drawings and photographs differ in that."""
    small = picture.convert("RGB")  # as the vision tower sees it
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    files = []
    for kind in ("png", "jpeg"):
        file = io.BytesIO()
        small.save(file, kind)
        files.append((len(file.getvalue()), kind, file.getvalue()))
    _, kind, data = min(files)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _finite(value):
    """The same data with null for numbers that JSON has no name for: a broken model's confidence may be NaN."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

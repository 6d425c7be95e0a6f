"""Make the example pictures, the clip and the requests that stand beside this file.

    python examples/make_examples.py

Everything comes from the playground, with fixed numbers, so a second run gives the same pictures. The still life and
the pair of pictures are arranged by hand, so that they look like something and what is asked has one right answer;
the receipt, the chart and the clip are held-out items, chosen by their index.
"""

import json
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
from PIL import Image

from data_pipelines.playground import item
from data_pipelines.playground.scene import Scene, Thing, draw
from data_pipelines.playground.scene_json import SCHEMA
from data_pipelines.record import image_part, text_part, video_part

HERE = Path(__file__).parent
TABLE = (238, 231, 219)
SEED = 7  # of the held-out items
RECEIPT, CHART, CLIP = 22, 16, 22
CLIP_SIDE = 240  # longest side that the clip's item may have
FRAMES_PER_SECOND = 4

KITCHEN = (  # a plate in the middle of a table, and around it a star, a cup, a napkin and a piece of cake
    Thing("star", "yellow", "small", 0.19, 0.2, 0.065),
    Thing("circle", "red", "medium", 0.81, 0.19, 0.1),
    Thing("circle", "blue", "large", 0.5, 0.5, 0.15),
    Thing("square", "orange", "medium", 0.18, 0.52, 0.105),
    Thing("triangle", "purple", "medium", 0.8, 0.82, 0.1),
)
BEFORE = (
    Thing("triangle", "green", "large", 0.18, 0.19, 0.14),
    Thing("circle", "blue", "medium", 0.8, 0.22, 0.1),
    Thing("square", "yellow", "large", 0.5, 0.53, 0.145),
    Thing("star", "red", "medium", 0.82, 0.8, 0.105),
)
CHANGED = 1  # the thing of BEFORE that has another color in the second picture


def main() -> None:
    _draw(KITCHEN, 320, 240, seed=1).save(HERE / "kitchen.png", optimize=True)
    after = tuple(replace(t, color="orange") if i == CHANGED else t for i, t in enumerate(BEFORE))
    _draw(BEFORE, 256, 256, seed=1).save(HERE / "before.png", optimize=True)
    _draw(after, 256, 256, seed=2).save(HERE / "after.png", optimize=True)
    for family, index, name in (("documents", RECEIPT, "receipt"), ("charts", CHART, "chart")):
        picture = item(family, "heldout", SEED, index, max_side=400).media[0]
        picture.save(HERE / f"{name}.png", optimize=True)
    write_clip(HERE / "bounce.mp4", item("video", "heldout", SEED, CLIP, max_side=CLIP_SIDE).media)
    lines = [json.dumps({"id": id, "messages": messages}) + "\n" for id, messages in requests().items()]
    (HERE / "requests.jsonl").write_text("".join(lines), encoding="utf-8")
    (HERE / "scene.schema.json").write_text(json.dumps(SCHEMA, indent=1) + "\n", encoding="utf-8")


def _draw(things: tuple[Thing, ...], width: int, height: int, seed: int) -> Image.Image:
    return draw(Scene(things, width, height, TABLE), np.random.default_rng(seed))


def write_clip(path: Path, frames: list[Image.Image]) -> None:
    """Encode frames of one size as H.264; its chroma needs even sides, so an odd one loses a pixel."""
    width, height = (side // 2 * 2 for side in frames[0].size)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=FRAMES_PER_SECOND, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.thread_count = 1  # the same bytes whatever the machine's number of cores
        for frame in frames:
            pixels = np.asarray(frame.crop((0, 0, width, height)))  # [H, W, 3]
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode())


def requests() -> dict[str, list[dict]]:
    """Messages by request id: one of each kind, media named relative to the file."""
    return {
        "describe": [_ask(image_part("kitchen.png"), "Describe the image.")],
        "pair": [
            _ask(image_part("before.png"), image_part("after.png"), "What color is the circle in the second picture?")
        ],
        "bounces": [_ask(video_part("bounce.mp4"), "Count the bounces of the ball.")],
        "total": [_ask(image_part("receipt.png"), "How much is it in total?")],
        "smallest": [_ask(image_part("chart.png"), "Which is the smallest?")],
        "follow-up": [
            _ask(image_part("kitchen.png"), "How many shapes are in the picture?"),
            {"role": "assistant", "content": "5"},
            _ask("What color is the square?"),
        ],
    }


def _ask(*parts: dict | str) -> dict:
    """A user's turn; text stands as it is, media as parts."""
    return {"role": "user", "content": [text_part(part) if isinstance(part, str) else part for part in parts]}


if __name__ == "__main__":
    main()

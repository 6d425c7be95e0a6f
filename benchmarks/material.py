"""What `benchmarks.data` reads, made up: clips, photographs, lines of text, and lengths of a realistic mix."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipelines.mixture import Source
from vision_encoders import VisionConfig, plan

RATE = 30  # frames a second of a clip
# Common sizes of photographs, screens, pages and thumbnails, and their shares.
PICTURES = {
    (640, 480): 4,
    (1024, 768): 2,
    (1280, 720): 2,
    (1920, 1080): 2,
    (1240, 1754): 1,
    (400, 300): 2,
    (224, 224): 1,
}
VISION = VisionConfig("siglip2", "", 448, fit="dynamic", options={"patch_size": 14}, merge=2, max_pixels=2**20)


def write_clip(path: Path, size: tuple[int, int], count: int) -> None:
    """A clip in which everything moves a little, so that frames cost what a film's do."""
    import av

    width, height = size
    texture = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    still = np.asarray(Image.fromarray(texture).resize((width, height), Image.Resampling.BICUBIC))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast", "g": str(2 * RATE)})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(count):
            moved = np.roll(still, (number, 2 * number), (0, 1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(moved), format="rgb24")))
        container.mux(stream.encode())


def write_pictures(folder: Path, count: int = 64) -> Path:
    """JSON lines whose pictures are JPEG photographs of 640 x 480."""
    rng = np.random.default_rng(0)
    lines = []
    for number in range(count):
        rough = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        rough.resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)
        lines.append(_line(number, f"{number}.jpg"))
    (folder / "pictures.jsonl").write_text("".join(lines))
    return folder / "pictures.jsonl"


def write_lines(folder: Path, lines: int) -> list[Source]:
    """Two sources of text-only samples, 60 : 40."""
    sources = []
    for name, share in (("a", 0.6), ("b", 0.4)):
        with (folder / f"{name}.jsonl").open("w") as file:
            file.writelines(_line(f"{name}{number}") for number in range(round(lines * share)))
        sources.append(Source(str(folder / f"{name}.jsonl"), weight=share))
    return sources


def mixed_lengths(rng: np.random.Generator, count: int) -> list[int]:
    """Tokens of samples: text only (25 %), one picture (55 %), two to five pictures (12 %), a video (8 %)."""
    sizes, shares = list(PICTURES), np.array(list(PICTURES.values()), float)
    tokens = [plan(size, VISION, VISION.image_size // 14).tokens for size in sizes]
    shares /= shares.sum()

    def length() -> int:
        kind = rng.choice(4, p=(0.25, 0.55, 0.12, 0.08))
        pictures = (0, 1, int(rng.integers(2, 6)), 0)[kind]
        video = int(rng.integers(8, 33)) * 64 if kind == 3 else 0
        text = int(rng.lognormal(5.5 if kind == 0 else 4.6, 0.9)) + 8
        return text + video + sum(tokens[i] for i in rng.choice(len(sizes), pictures, p=shares))

    return [length() for _ in range(count)]


def _line(number: object, picture: str | None = None) -> str:
    shown = [{"type": "image", "image": picture}] if picture else []
    asked = {"role": "user", "content": [*shown, {"type": "text", "text": f"What is number {number}?"}]}
    return (
        json.dumps({"id": str(number), "messages": [asked, {"role": "assistant", "content": f"It is {number}."}]})
        + "\n"
    )

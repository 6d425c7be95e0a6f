"""The command line: what it prints where, what it accepts, and one line for every mistake.

Most tests call `infer.main` in this process on a tiny random model; every mistake is also made in a real, separate
process, where nothing of pytest stands between a library's chatter and stderr.
"""

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file

import infer
from data_pipelines.media import open_media
from data_pipelines.readers.messages import user_sample
from tests.vlm.cli.lively import lively_model, save
from tests.vlm.cli.screen import Screen, printed
from vlm.answering import answer_batch, build_request, settings
from vlm.checkpoints.load import load

ROOT = Path(infer.__file__).parent
JSON_FIELDS = {"answer", "tokens", "forwards", "tokens_per_forward", "prefill_s", "decode_s", "mode", "model"}


def noise(seed: int, height: int = 40, width: int = 60) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8))


def write_clip(path: Path, frames: int = 12) -> None:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for k in range(frames):
            out.mux(stream.encode(av.VideoFrame.from_image(noise(k, 48, 64))))
        out.mux(stream.encode())


def write_sound(path: Path) -> None:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = 8000, Fraction(1, 8000), 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode())


def huge_png() -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


def write_adapter(path: Path) -> None:
    config = LoraConfig(
        r=2, target_modules=r".*language_model\..*\.(q|k|v|o|gate|up|down)_proj", modules_to_save=["projector"]
    )
    model = get_peft_model(lively_model()[0], config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(path)


@pytest.fixture(scope="session")
def here(tmp_path_factory) -> Path:
    """A folder with a model, an adapter, and media good and bad."""
    folder = tmp_path_factory.mktemp("infer")
    save(folder / "model")
    write_adapter(folder / "adapter")
    for k in range(3):
        noise(k).save(folder / f"{k}.png")
    write_clip(folder / "a.mp4")
    write_bad_media(folder)
    write_bad_models(folder)
    return folder


def write_bad_media(folder: Path) -> None:
    (folder / "folder").mkdir()
    (folder / "text.png").write_text("not a picture")
    (folder / "empty.png").touch()
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("not a clip")
    (folder / "huge.png").write_bytes(huge_png())
    noise(0).save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:-700])
    write_sound(folder / "sound.mp4")
    (folder / "cut.mp4").write_bytes((folder / "a.mp4").read_bytes()[:4000])


def write_bad_models(folder: Path) -> None:
    changes = {
        "missing": lambda tensors: tensors.pop("language_model.model.norm.weight"),
        "misshapen": lambda tensors: tensors.update({"language_model.model.norm.weight": torch.zeros(5)}),
    }
    for name in ("missing", "misshapen", "truncated", "pickled"):
        save(folder / name)
    for name, change in changes.items():
        tensors = load_file(folder / name / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / name / "model.safetensors", metadata={"format": "pt"})
    weights = folder / "truncated" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    weights = folder / "pickled" / "model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()


@pytest.fixture
def ask(here, capsys, monkeypatch):
    """Run the command line in ``here`` on its model; returns (exit status, stdout, stderr)."""
    monkeypatch.chdir(here)

    def run(*arguments: str, model: str = "model") -> tuple[int, str, str]:
        capsys.readouterr()
        status = infer.main(["--model", model, "--max-new-tokens", "9", *arguments])
        return (status, *capsys.readouterr())

    return run


@pytest.fixture
def answer(ask):
    """The answer on stdout of a run that must succeed."""

    def run(*arguments: str) -> str:
        status, out, _ = ask(*arguments)
        assert status == 0
        return out

    return run


def direct(here: Path, images=(), videos=(), prompt="red", system=None, frames=16, adapter=None, **options) -> str:
    """What the command line must print, by the functions below it."""
    model, processor = load(str(here / "model"), adapter and str(here / adapter))
    sample = user_sample(prompt, [here / i for i in images], [here / v for v in videos], system)
    request = build_request(processor, sample.messages, open_media(sample.messages, frames), options.get("seed", 0))
    config = settings(model, **{"max_new_tokens": 9, **options})
    return answer_batch(model, processor, [request], config)[0].answer + "\n"


def test_images_in_their_order(here, answer):
    one = answer("--image", "0.png", "--prompt", "red")
    two = answer("--image", "0.png", "--image", "1.png", "--prompt", "red")
    other = answer("--image", "1.png", "--image", "0.png", "--prompt", "red")
    none = answer("--prompt", "red")
    assert one == direct(here, ["0.png"]) and two == direct(here, ["0.png", "1.png"]) and none == direct(here)
    assert len({one, two, other, none}) == 4


def test_a_video_by_its_frames(here, answer):
    few = answer("--video", "a.mp4", "--frames", "2", "--prompt", "red")
    all_of_them = answer("--video", "a.mp4", "--prompt", "red")
    assert few == direct(here, videos=["a.mp4"], frames=2)
    assert all_of_them == direct(here, videos=["a.mp4"], frames=12) != few
    both = answer("--video", "a.mp4", "--image", "0.png", "--prompt", "red")
    assert both == direct(here, ["0.png"], ["a.mp4"])


def test_prompt_and_system_message(here, answer):
    plain = answer("--prompt", "red", "--image", "0.png")
    told = answer("--prompt", "red", "--image", "0.png", "--system", "small star")
    assert told == direct(here, ["0.png"], system="small star") != plain
    assert answer("--prompt", "blue", "--image", "0.png") == direct(here, ["0.png"], prompt="blue") != plain


def test_modes_and_settings(here, answer):
    question = ("--prompt", "red", "--image", "0.png")
    for flags, options in {
        ("--mode", "ar"): {"mode": "ar"},
        ("--block-size", "8", "--threshold", "0.05"): {"block_size": 8, "threshold": 0.05},
        ("--denoising-steps", "2"): {"denoising_steps": 2},
        ("--max-new-tokens", "3"): {"max_new_tokens": 3},
        ("--temperature", "1", "--top-k", "5", "--top-p", "0.9", "--seed", "7"): {
            "temperature": 1.0,
            "top_k": 5,
            "top_p": 0.9,
            "seed": 7,
        },
    }.items():
        assert answer(*question, *flags) == direct(here, ["0.png"], **options), flags
    assert answer(*question, "--mode", "ar") != answer(*question)


def test_a_seed_repeats_its_sample(answer):
    sampled = [answer("--prompt", "red", "--temperature", "2", "--seed", seed) for seed in "112345"]
    assert sampled[0] == sampled[1] and len(set(sampled)) >= 4


def test_json_is_one_object_with_every_count(here, ask):
    status, out, err = ask(
        "--prompt", "red", "--image", "0.png", "--json", "--denoising-steps", "2", "--block-size", "8"
    )
    record = json.loads(out)
    assert (status, err, out.count("\n")) == (0, "", 1)
    assert record.keys() >= JSON_FIELDS and record["mode"] == "block" and record["model"] == "model"
    assert record["answer"] + "\n" == direct(here, ["0.png"], denoising_steps=2, block_size=8)
    assert (record["tokens"], record["forwards"], record["tokens_per_forward"]) == (
        9,
        4,
        2.25,
    )  # 2 blocks, 2 steps each
    assert record["prefill_s"] > 0 and record["decode_s"] > 0
    ar = json.loads(ask("--prompt", "red", "--json", "--mode", "ar")[1])
    assert (ar["mode"], ar["tokens"], ar["forwards"]) == ("ar", 9, 9)


def test_the_adapter_speaks(here, answer):
    adapted = answer("--prompt", "red", "--image", "0.png", "--adapter", "adapter")
    assert adapted == direct(here, ["0.png"], adapter="adapter") != direct(here, ["0.png"])


def turned(image: Image.Image) -> tuple[Image.Image, dict]:
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn me clockwise"
    return image.rotate(90, expand=True), {"exif": exif}


SAME_PICTURE = {
    "palette.gif": lambda image: (image.quantize(256), {}),
    "palette.png": lambda image: (image.quantize(256), {}),
    "alpha.png": lambda image: (image.convert("RGBA"), {}),
    "turned.png": turned,
    "cmyk.tiff": lambda image: (image.convert("CMYK"), {}),
    "deep.png": lambda image: (Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257), {}),
}


@pytest.mark.parametrize("name", SAME_PICTURE)
def test_every_kind_of_image(here, answer, name):
    """A picture of 40 grey squares, which all these formats hold exactly, is answered as its RGB file is."""
    grey = np.random.default_rng(5).integers(0, 256, (5, 8)).astype(np.uint8)
    image = Image.fromarray(grey.repeat(8, 0).repeat(8, 1)).convert("RGB")
    image.save(here / "plain.png")
    stored, options = SAME_PICTURE[name](image)
    stored.save(here / name, **options)
    assert answer("--image", name, "--prompt", "red") == answer("--image", "plain.png", "--prompt", "red")


def test_an_animation_is_a_video_or_its_first_frame(here, answer):
    pictures = [noise(k).quantize(64) for k in range(4)]
    pictures[0].save(here / "a.gif", save_all=True, append_images=pictures[1:])
    (here / "frames").mkdir(exist_ok=True)
    for k, picture in enumerate(pictures):
        picture.convert("RGB").save(here / "frames" / f"{k}.png")
    first = answer("--image", "a.gif", "--prompt", "red")
    assert first == answer("--image", "frames/0.png", "--prompt", "red")
    moving = answer("--video", "a.gif", "--prompt", "red")
    assert moving == answer("--video", "frames", "--prompt", "red") != first


def read_to_the_end(terminal: int) -> str:
    """What was written to a pseudo-terminal that is closed on the other side; it arrives in pieces."""
    pieces = []
    try:
        while piece := os.read(terminal, 4096):
            pieces.append(piece)
    except OSError:  # the other side is closed and everything was read
        pass
    os.close(terminal)
    return b"".join(pieces).decode()


def test_drafts_on_a_terminal_end_as_the_piped_answer(here, ask, monkeypatch):
    piped = ask("--prompt", "red", "--image", "0.png")[1]
    monkeypatch.setenv("COLUMNS", "7")
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        assert ask("--prompt", "red", "--image", "0.png")[0] == 0
    written = read_to_the_end(ours)
    screen = Screen(7)
    screen.write(written)
    assert "░" in written and screen.shown() == printed(piped.removesuffix("\n"), 7)


def test_a_batch_file_through_the_command_line(here, ask):
    requests = [{"id": k, "messages": user_sample("red", [f"{k}.png"]).messages} for k in range(3)]
    (here / "in.jsonl").write_text("".join(json.dumps(r) + "\n" for r in requests))
    status, out, _ = ask("--input", "in.jsonl", "--output", "out.jsonl", "--batch-size", "2")
    records = [json.loads(line) for line in (here / "out.jsonl").read_text().splitlines()]
    assert (status, out) == (0, "")
    assert [r["answer"] + "\n" for r in records] == [direct(here, [f"{k}.png"]) for k in range(3)]
    (here / "in.jsonl").write_text('{"id": "7", "messages": 0}\n')
    assert ask("--input", "in.jsonl", "--output", "other.jsonl")[0] == 1


def test_a_chat_through_the_command_line(here, ask, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("red\n"))
    status, out, _ = ask("--chat", "--image", "0.png", "--system", "small")
    assert (status, out) == (0, direct(here, ["0.png"], system="small"))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--prompt", "a", "--chat"],
        ["--prompt", "a", "--input", "a", "--output", "b"],
        ["--input", "a"],
        ["--prompt", "a", "--output", "b"],
        ["--input", "a", "--output", "b", "--image", "c"],
        ["--prompt", "a", "--frames", "0"],
        ["--input", "a", "--output", "b", "--batch-size", "0"],
        ["--prompt", "a", "--mode", "both"],
        ["--prompt", "a", "--no-such-flag"],
        ["--chat", "--json"],
        ["--input", "a", "--output", "b", "--json"],
        ["--input", "a", "--output", "b", "--system", "c"],
    ],
)
def test_combinations_that_mean_nothing(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        infer.main(arguments)
    out, err = capsys.readouterr()
    assert caught.value.code == 2 and out == "" and "error: " in err.splitlines()[-1]


MODEL, ASK = ["--model", "model"], ["--prompt", "red"]
MISTAKES = {  # arguments, and what the one line must say
    "missing image": ([*MODEL, *ASK, "--image", "no.png"], ["no.png", "no such file"]),
    "directory": ([*MODEL, *ASK, "--image", "folder"], ["folder", "directory"]),
    "text as png": ([*MODEL, *ASK, "--image", "text.png"], ["text.png", "not an image"]),
    "truncated jpeg": ([*MODEL, *ASK, "--image", "cut.jpg"], ["cut.jpg", "truncated"]),
    "empty image": ([*MODEL, *ASK, "--image", "empty.png"], ["empty.png", "empty"]),
    "huge header": ([*MODEL, *ASK, "--image", "huge.png"], ["huge.png", "million pixels"]),
    "second image": ([*MODEL, *ASK, "--image", "0.png", "--image", "no.png"], ["no.png"]),
    "missing video": ([*MODEL, *ASK, "--video", "no.mp4"], ["no.mp4", "no such file"]),
    "no pictures": ([*MODEL, *ASK, "--video", "folder"], ["folder", "no pictures"]),
    "empty video": ([*MODEL, *ASK, "--video", "empty.mp4"], ["empty.mp4", "empty"]),
    "text as video": ([*MODEL, *ASK, "--video", "text.mp4"], ["text.mp4"]),
    "sound only": ([*MODEL, *ASK, "--video", "sound.mp4"], ["sound.mp4", "no video stream"]),
    "cut-off video": ([*MODEL, *ASK, "--video", "cut.mp4"], ["cut.mp4"]),
    "unknown directory": (["--model", "nowhere", *ASK], ["nowhere", "no such model directory"]),
    "hub id offline": (["--model", "someone/something", *ASK], ["someone/something"]),
    "no config": (["--model", "folder", *ASK], ["folder", "config.json"]),
    "missing tensor": (["--model", "missing", *ASK], ["missing", "language_model.model.norm.weight"]),
    "misshapen tensor": (["--model", "misshapen", *ASK], ["misshapen", "language_model.model.norm.weight", "[5]"]),
    "truncated weights": (["--model", "truncated", *ASK], ["truncated/model.safetensors"]),
    "pickled weights": (["--model", "pickled", *ASK], ["pickled", "safetensors"]),
    "missing adapter": ([*MODEL, *ASK, "--adapter", "nowhere"], ["nowhere", "adapter"]),
    "not an adapter": ([*MODEL, *ASK, "--adapter", "model"], ["model", "adapter"]),
    "device": ([*MODEL, *ASK, "--device", "nonsense"], ["nonsense"]),
    "reserved token": ([*MODEL, "--prompt", "a <|image|> b"], ["<|image|>", "reserved"]),
    "role token": ([*MODEL, "--prompt", "a <|assistant|> b"], ["<|assistant|>", "reserved"]),
    "reserved token in system": ([*MODEL, *ASK, "--system", "<|mask|>"], ["<|mask|>", "reserved"]),
    "empty prompt": ([*MODEL, "--prompt", " "], ["prompt is empty"]),
    "prompt too long": ([*MODEL, "--prompt", "zq " * 500], ["512"]),
    "no tokens": ([*MODEL, *ASK, "--max-new-tokens", "0"], ["max_new_tokens 0", "at least 1"]),
    "threshold": ([*MODEL, *ASK, "--threshold", "2"], ["threshold 2.0", "(0, 1]"]),
    "threshold not a number": ([*MODEL, *ASK, "--threshold", "nan"], ["threshold nan", "(0, 1]"]),
    "block size": ([*MODEL, *ASK, "--block-size", "5"], ["block_size 5", "1, 4, 8"]),
    "steps": ([*MODEL, *ASK, "--denoising-steps", "0"], ["denoising_steps 0", "at least 1"]),
    "temperature": ([*MODEL, *ASK, "--temperature", "-1"], ["temperature -1.0"]),
    "top p": ([*MODEL, *ASK, "--top-p", "0"], ["top_p 0.0", "(0, 1]"]),
    "top k": ([*MODEL, *ASK, "--top-k", "-1"], ["top_k -1"]),
    "seed": ([*MODEL, *ASK, "--seed", str(2**70)], ["seed", str(2**70)]),
    "missing input": ([*MODEL, "--input", "no.jsonl", "--output", "o.jsonl"], ["no.jsonl", "no such file"]),
    "output directory": ([*MODEL, "--input", "ask.jsonl", "--output", "folder"], ["folder", "written"]),
    "output nowhere": ([*MODEL, "--input", "ask.jsonl", "--output", "no/o.jsonl"], ["no/o.jsonl", "written"]),
    "batch block size": (
        [*MODEL, "--input", "ask.jsonl", "--output", "o.jsonl", "--block-size", "5"],
        ["block_size 5", "1, 4, 8"],
    ),
}
DRIVER = """
import json, sys, infer
for arguments in json.load(sys.stdin):
    try:
        status = infer.main(arguments)
    except SystemExit as error:
        status = error.code
    for file in (sys.stdout, sys.stderr):
        print(f"[{status}]", end="\\0", file=file, flush=True)
"""


def separate(here: Path, *command: str, **options) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=here, env=environment, capture_output=True, text=True, timeout=120, **options
    )


@pytest.fixture(scope="session")
def mistakes(here) -> dict[str, tuple[str, str]]:
    """Every mistake, made one after the other in one separate process: stdout and stderr, each ending [status]."""
    (here / "ask.jsonl").write_text(json.dumps({"id": "1", "messages": user_sample("red").messages}) + "\n")
    done = separate(here, "-c", DRIVER, input=json.dumps([arguments for arguments, _ in MISTAKES.values()]))
    outs, errs = done.stdout.split("\0")[:-1], done.stderr.split("\0")[:-1]
    assert len(outs) == len(MISTAKES), done.stderr[-2000:]
    return dict(zip(MISTAKES, zip(outs, errs)))


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_on_stderr(mistakes, name):
    out, err = mistakes[name]
    assert out == "[2]"
    line, _, status = err.rpartition("\n")
    assert status == "[2]" and line.startswith("error: ") and "\n" not in line, err
    assert all(part in line for part in MISTAKES[name][1]), line


def test_a_separate_process_prints_the_answer_alone(here):
    arguments = ["--model", "model", "--adapter", "adapter", "--image", "0.png", "--prompt", "red"]
    done = separate(here, str(ROOT / "infer.py"), *arguments, "--max-new-tokens", "9")
    assert (done.returncode, done.stdout) == (0, direct(here, ["0.png"], adapter="adapter"))
    assert done.stderr.count("\n") == 1 and "9 tokens in " in done.stderr


def test_a_separate_process_reports_a_mistake(here):
    done = separate(here, str(ROOT / "infer.py"), "--model", "missing", "--prompt", "red")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: missing: tensor language_model.model.norm.weight is missing\n"

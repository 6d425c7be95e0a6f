"""A chat in the terminal: several turns, with images and videos attached on the way."""

import sys

from data_pipelines.errors import DataError
from data_pipelines.media import open_media
from data_pipelines.record import image_part, text_part, video_part
from vlm.answering import answer_batch, build_request
from vlm.cli.stream import TerminalStreamer
from vlm.generation.generate import stream_steps
from vlm.generation.prefix import PrefixStore

HELP = "/image PATH  /video PATH  attach to the next message · /reset  forget everything · /quit  leave"


def chat(model, processor, config, frames: int, system: str | None, first_parts: list[dict]) -> None:
    """Read messages from the terminal until it ends; every answer sees the whole conversation.

    Args:
        first_parts: image and video parts that belong to the first message.
    """
    say(HELP)
    start = [] if system is None else [{"role": "system", "content": system}]
    messages, parts, store = list(start), list(first_parts), PrefixStore()  # a turn reads only what is new
    while (line := _read()) is not None:
        command, _, argument = line.partition(" ")
        if command == "/quit":
            return
        if command == "/reset":
            messages, parts = list(start), []
        elif command in ("/image", "/video"):
            parts += _attachment(command, argument.strip(), frames)
        elif command.startswith("/"):
            say(f"unknown command {command} · {HELP}")
        elif line:
            turn = {"role": "user", "content": [*parts, text_part(line)]}
            reply = _reply(model, processor, config, [*messages, turn], frames, store)
            if reply is not None:
                messages += [turn, {"role": "assistant", "content": [text_part(reply)]}]
                parts = []


def _read() -> str | None:
    """The next line; None at the end of input. The prompt sign is shown to a person only."""
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except (EOFError, KeyboardInterrupt):
        return None


def _attachment(command: str, path: str, frames: int) -> list[dict]:
    """The part for a file, opened once now so that a bad one is reported at once."""
    if not path:
        say(f"error: {command} needs a file")
        return []
    part = image_part(path) if command == "/image" else video_part(path)
    try:
        opened = open_media([{"role": "user", "content": [part]}], frames)[0]
    except DataError as error:
        say(f"error: {error}")
        return []
    say(f"attached {path}")
    return [image_part(opened) if command == "/image" else video_part(opened)]


def _reply(model, processor, config, messages: list[dict], frames: int, store: PrefixStore) -> str | None:
    try:
        request = build_request(processor, messages, open_media(messages, frames), config.seed)
        if not sys.stdout.isatty():
            answer = answer_batch(model, processor, [request], config, store=store)[0]
            print(answer.answer, flush=True)
            return answer.answer
        streamer = TerminalStreamer(processor)
        streamer.put(request.input_ids)
        answer = answer_batch(model, processor, [request], config, stream_steps(streamer), store)[0]
        streamer.end()
    except ValueError as error:
        say(f"error: {error}")
        return None
    say(f"{answer.tokens} tokens, {answer.tokens_per_forward} per forward, {answer.decode_s:.2f} s")
    return answer.answer


def say(text: str) -> None:
    """To the person, never into the answer: stderr."""
    print(text, file=sys.stderr)

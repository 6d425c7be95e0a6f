"""Ask a block-diffusion vision-language model about images and videos.

python infer.py --image examples/kitchen.png --prompt "Describe the image."
python infer.py --image a.png --image b.png --prompt "What changed?"
python infer.py --video examples/bounce.mp4 --prompt "How many times does the ball bounce?"
python infer.py --chat
python infer.py --input examples/requests.jsonl --output answers.jsonl --batch-size 8
"""

import argparse
import sys
import warnings

warnings.filterwarnings("ignore")

DECODING = ("mode", "threshold", "block_size", "denoising_steps", "max_new_tokens")
SAMPLING = ("temperature", "top_p", "top_k", "seed")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_argument_group("what to ask")
    what.add_argument("--image", action="append", default=[], metavar="P", help="an image file; may be repeated")
    what.add_argument("--video", action="append", default=[], metavar="P", help="a video, a GIF or a folder of frames")
    what.add_argument(
        "--frames", type=int, default=16, metavar="N", help="most frames taken from a video (default 16)"
    )
    what.add_argument("--prompt", metavar="T", help="the question")
    what.add_argument("--system", metavar="T", help="a system message")
    what.add_argument("--chat", action="store_true", help="talk in the terminal, several turns")
    what.add_argument("--input", metavar="F", help="a JSONL file of requests; answers go to --output")
    what.add_argument("--output", metavar="F", help="a JSONL file of answers; ids already in it are skipped")
    what.add_argument("--batch-size", type=int, default=4, metavar="N", help="requests decoded together (default 4)")
    which = parser.add_argument_group("the model")
    which.add_argument("--model", metavar="DIR|HUB_ID", help="a checkpoint (default: the embedded model)")
    which.add_argument("--adapter", metavar="DIR", help="a PEFT adapter for it")
    which.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: float32 on CPU")
    which.add_argument("--device", metavar="D", help="default: cuda if there is one, else cpu")
    how = parser.add_argument_group("decoding (defaults come from the checkpoint)")
    how.add_argument("--mode", choices=("block", "ar"), help="block diffusion, or one token per forward")
    how.add_argument("--threshold", type=float, metavar="X", help="commit every token at least this sure, in (0, 1]")
    how.add_argument("--block-size", type=int, metavar="N", help="tokens per block, one that was trained")
    how.add_argument("--denoising-steps", type=int, metavar="N", help="fixed steps per block instead of a threshold")
    how.add_argument("--max-new-tokens", type=int, metavar="N", help="longest answer in tokens")
    how.add_argument("--temperature", type=float, metavar="X", help="0 is greedy (default 0)")
    how.add_argument("--top-p", type=float, metavar="X", help="keep the most probable mass (default 1, all)")
    how.add_argument("--top-k", type=int, metavar="N", help="keep the most probable tokens (default 0, all)")
    how.add_argument("--seed", type=int, metavar="N", help="of sampling (default 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object: the answer and what it cost")
    arguments = parser.parse_args(argv)
    _check(parser, arguments)
    return arguments


def _check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Refuse combinations that ask for nothing, or for two things at once."""
    jobs = [arguments.chat, arguments.input is not None, arguments.prompt is not None]
    if sum(jobs) != 1:
        parser.error("give exactly one of --prompt, --chat or --input")
    if (arguments.input is None) != (arguments.output is None):
        parser.error("--input and --output go together")
    if arguments.input is not None and (arguments.image or arguments.video):
        parser.error("with --input, media stand in the requests, not in --image or --video")
    if arguments.input is not None and arguments.system is not None:
        parser.error("with --input, system messages stand in the requests, not in --system")
    if arguments.json and arguments.prompt is None:
        parser.error("--json goes with --prompt; answers to --input are JSON anyway")
    for name in ("frames", "batch_size"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(arguments, name)} must be at least 1")


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    try:
        return _run(arguments)
    except ValueError as error:  # DataError and CheckpointError are, and so are illegal settings
        print("error:", " ".join(str(error).splitlines()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _run(arguments: argparse.Namespace) -> int:
    import torch
    from transformers.utils import logging

    from data_pipelines.media import open_media
    from data_pipelines.readers.messages import user_sample
    from vlm.answering import settings
    from vlm.checkpoints.load import load

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    sample = user_sample(arguments.prompt or "", arguments.image, arguments.video, arguments.system)
    media = open_media(sample.messages, arguments.frames)  # before the model: a bad file is reported at once
    dtype = getattr(torch, arguments.dtype) if arguments.dtype else None
    model, processor = load(arguments.model, arguments.adapter, dtype, arguments.device)
    config = settings(model, **{name: getattr(arguments, name) for name in DECODING + SAMPLING})
    name = arguments.model or "embedded"
    if arguments.chat:
        from vlm.cli.chat import chat

        chat(model, processor, config, arguments.frames, arguments.system, sample.messages[-1]["content"][:-1])
        return 0
    if arguments.input is not None:
        from vlm.cli.batch import run_batch

        options = (arguments.batch_size, arguments.frames, name)
        return int(run_batch(model, processor, config, arguments.input, arguments.output, *options) > 0)
    return _single(model, processor, config, sample.messages, media, name, arguments.json)


def _single(model, processor, config, messages: list, media: list, name: str, as_json: bool) -> int:
    import json

    from vlm.answering import answer_batch, build_request
    from vlm.cli.stream import TerminalStreamer
    from vlm.generation.generate import stream_steps

    request = build_request(processor, messages, media, config.seed)
    live = sys.stdout.isatty() and not as_json
    streamer = TerminalStreamer(processor) if live else None
    if streamer is not None:
        streamer.put(request.input_ids)
    answer = answer_batch(model, processor, [request], config, on_step=stream_steps(streamer))[0]
    if as_json:
        print(json.dumps({**answer.to_dict(), "model": name}, ensure_ascii=False))
        return 0
    if streamer is not None:
        streamer.end()
    else:
        print(answer.answer)
    counts = f"{answer.tokens} tokens in {answer.forwards} forwards ({answer.tokens_per_forward} per forward)"
    print(f"{counts}, prefill {answer.prefill_s:.2f} s, decode {answer.decode_s:.2f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

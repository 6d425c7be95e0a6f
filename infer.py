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

TOGETHER = 4  # requests decoded as one batch


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
    what.add_argument("--fps", type=float, metavar="F", help="frames a second of a --video, --frames at most")
    what.add_argument("--start", type=float, metavar="S", help="where to begin in a --video, in seconds")
    what.add_argument("--end", type=float, metavar="S", help="where to end in it")
    what.add_argument("--timestamps", action="store_true", help="tell the model when each frame of it is shown")
    what.add_argument("--prompt", metavar="T", help="the question")
    what.add_argument("--system", metavar="T", help="a system message")
    what.add_argument("--chat", action="store_true", help="talk in the terminal, several turns")
    what.add_argument("--input", metavar="F", help="a JSONL file of requests; answers go to --output")
    what.add_argument("--output", metavar="F", help="a JSONL file of answers; ids already in it are skipped")
    what.add_argument("--batch-size", type=int, metavar="N", help=f"requests decoded together (default {TOGETHER})")
    which = parser.add_argument_group("the model")
    which.add_argument(
        "--model", metavar="DIR|HUB_ID", help="a checkpoint (default: the adapter's base, else the embedded model)"
    )
    which.add_argument("--adapter", metavar="DIR", help="a PEFT adapter for it")
    which.add_argument("--quantize", choices=("int8", "nf4"), help="of the decoder's linear layers")
    which.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: float32 on CPU")
    which.add_argument("--device", metavar="D", help="default: cuda if there is one, else cpu")
    how = parser.add_argument_group("decoding (defaults come from the checkpoint)")
    how.add_argument(
        "--mode",
        choices=("block", "ar", "speculative"),
        help="block diffusion, one token per forward, or drafts that the latter verifies",
    )
    how.add_argument("--decoder", metavar="NAME", help="a published decoder; other flags prevail over its values")
    how.add_argument(
        "--verifier", metavar="DIR|HUB_ID", help="a second model that reads the drafts of --mode speculative"
    )
    how.add_argument("--list-decoders", action="store_true", help="which there are, and which the model can run")
    how.add_argument("--policy", metavar="NAME", help="which slots a pass commits (default: those above --threshold)")
    how.add_argument("--policy-arg", action="append", default=[], metavar="K=X", help="a value the policy takes")
    how.add_argument(
        "--slot", action="append", default=[], metavar="NAME[.K=X]", help="another strategy, or a value it takes"
    )
    how.add_argument("--threshold", type=float, metavar="X", help="commit every token at least this sure, in (0, 1]")
    how.add_argument(
        "--block-size", type=int, metavar="N", help="tokens per block, a trained number (drafts: the largest of them)"
    )
    how.add_argument("--denoising-steps", type=int, metavar="N", help="fixed steps per block instead of a threshold")
    how.add_argument("--max-new-tokens", type=int, metavar="N", help="longest answer in tokens")
    how.add_argument("--temperature", type=float, metavar="X", help="0 is greedy (default 0)")
    how.add_argument("--top-p", type=float, metavar="X", help="keep the most probable mass (default 1, all)")
    how.add_argument("--top-k", type=int, metavar="N", help="keep the most probable tokens (default 0, all)")
    how.add_argument("--repetition-penalty", type=float, metavar="X", help="above 1 avoids repeats (default 1)")
    how.add_argument("--seed", type=int, metavar="N", help="of sampling (default 0)")
    how.add_argument("--stop", action="append", metavar="T", help="a text that ends the answer; may be repeated")
    how.add_argument("--schema", metavar="F", help="a JSON schema file that the answer follows")
    how.add_argument("--regex", metavar="R", help="a pattern that the whole answer matches")
    how.add_argument("--choices", metavar="A,B,C", help="the answer is one of these")
    parser.add_argument("--logprobs", action="store_true", help="log-probability of every token (goes with --json)")
    parser.add_argument("--trace", metavar="F", help="write a replay of the decoding to F.html or F.json")
    parser.add_argument("--json", action="store_true", help="print one JSON object: the answer and what it cost")
    arguments = parser.parse_args(argv)
    _check(parser, arguments)
    return arguments


def _check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Refuse combinations that ask for nothing, or for two things at once."""
    jobs = [arguments.chat, arguments.input is not None, arguments.prompt is not None, arguments.list_decoders]
    if sum(jobs) != 1:
        parser.error("give exactly one of --prompt, --chat, --input or --list-decoders")
    if (arguments.input is None) != (arguments.output is None):
        parser.error("--input and --output go together")
    if arguments.input is not None and (arguments.image or arguments.video):
        parser.error("with --input, media stand in the requests, not in --image or --video")
    if arguments.input is not None and arguments.system is not None:
        parser.error("with --input, system messages stand in the requests, not in --system")
    if arguments.json and arguments.prompt is None:
        parser.error("--json goes with --prompt; answers to --input are JSON anyway")
    if arguments.logprobs and not arguments.json:
        parser.error("--logprobs goes with --json; with --input a request asks for them itself")
    if arguments.trace is not None and arguments.prompt is None:
        parser.error("--trace goes with --prompt")
    if sum(value is not None for value in (arguments.schema, arguments.regex, arguments.choices)) > 1:
        parser.error("--schema, --regex and --choices exclude each other: give one of them")
    if arguments.chat and (arguments.schema or arguments.regex or arguments.choices):
        parser.error("--schema, --regex and --choices go with --prompt or --input")
    if _video_settings(arguments) and not arguments.video:
        parser.error("--fps, --start, --end and --timestamps go with --video; in --input they stand in the requests")
    for name in ("frames", "batch_size"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} {value} must be at least 1")


def _video_settings(arguments: argparse.Namespace) -> dict:
    """What the command line says of how its videos are sampled, as a content part says it."""
    given = {name: getattr(arguments, name) for name in ("fps", "start", "end")}
    said = {name: value for name, value in given.items() if value is not None}
    return {**said, "timed": True} if arguments.timestamps else said


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
    from vlm.answering import SAMPLING, SETTINGS, build_request, own_strategy, settings
    from vlm.checkpoints.diffusion_gemma import open_model
    from vlm.cli.trace_page import check_trace_path

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    sample = user_sample(arguments.prompt or "", arguments.image, arguments.video, arguments.system)
    for part in sample.messages[-1]["content"]:
        part.update(_video_settings(arguments) if part["type"] == "video" else {})
    media = open_media(sample.messages, arguments.frames)  # before the model: a bad file is reported at once
    dtype = getattr(torch, arguments.dtype) if arguments.dtype else None
    if arguments.trace is not None:
        check_trace_path(arguments.trace)
    grammar = _grammar(arguments)  # and so are a bad schema and a bad pattern
    arguments.policy_args, arguments.stop_strings = _policy_args(arguments.policy_arg), arguments.stop
    arguments.slots = _slots(arguments.slot)
    if arguments.verifier is not None:
        arguments.slots = {**(arguments.slots or {}), "verifier": {"model": arguments.verifier}}
    how = (arguments.adapter, dtype, arguments.device, arguments.quantize)
    model, processor = open_model(arguments.model, *how, asked=vars(arguments))
    if arguments.list_decoders:
        from vlm.cli.decoders import print_decoders

        print_decoders(model, processor.tokenizer, arguments.model or "the embedded model")
        return 0
    given = {name: getattr(arguments, name) for name in (*SETTINGS, *SAMPLING, "seed")}
    config = settings(model, tokenizer=processor.tokenizer, **given)
    name = arguments.model or arguments.adapter or "embedded"
    if arguments.chat:
        from vlm.cli.chat import chat

        chat(model, processor, config, arguments.frames, arguments.system, sample.messages[-1]["content"][:-1])
        return 0
    if arguments.input is not None:
        from vlm.cli.batch import run_batch

        options = (arguments.batch_size or TOGETHER, arguments.frames, name)
        return int(run_batch(model, processor, config, arguments.input, arguments.output, *options, grammar) > 0)
    request = build_request(processor, sample.messages, media, config.seed)
    request.strategy = own_strategy(model, processor, config, grammar)
    return _single(model, processor, config, request, arguments, name, media)


def _grammar(arguments: argparse.Namespace) -> dict:
    """The grammar asked for, as `vlm.answering.own_strategy` takes it; refused here if it is malformed."""
    from pathlib import Path

    from vlm.answering import GRAMMARS

    found = {"regex": arguments.regex, "choices": arguments.choices and arguments.choices.split(",")}
    if arguments.schema is not None:
        try:
            found["schema"] = Path(arguments.schema).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{arguments.schema}: cannot be read as a schema ({error})") from None
    found = {name: value for name, value in found.items() if value is not None}
    for name, value in found.items():
        GRAMMARS[name](value)
    return found


def _policy_args(pairs: list[str]) -> dict | None:
    """``K=X`` pairs as values by name."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise ValueError(f"--policy-arg {pair!r} must be a name, an equals sign and a value")
        found[name] = _value(value)
    return found or None


def _slots(given: list[str]) -> dict | None:
    """``NAME`` and ``NAME.K=X`` as strategies by name, each with its values by name."""
    found: dict[str, dict] = {}
    for text in given:
        place, equals, value = text.partition("=")
        name, dot, field = place.partition(".")
        if not name or bool(dot) != bool(equals) or bool(dot) != bool(field):
            raise ValueError(f"--slot {text!r} must be a strategy, or one with .K=X")
        found.setdefault(name, {}).update({field: _value(value)} if field else {})
    return found or None


def _value(text: str) -> int | float | bool | str:
    """A number or a truth value where the text is one."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _single(model, processor, config, request, arguments: argparse.Namespace, name: str, media: list) -> int:
    import json

    from vlm.answering import answer_batch
    from vlm.cli.stream import TerminalStreamer
    from vlm.cli.trace_page import write_trace
    from vlm.generation.generate import stream_steps
    from vlm.generation.trace import Trace

    live = sys.stdout.isatty() and not arguments.json
    streamer = TerminalStreamer(processor) if live else None
    if streamer is not None:
        streamer.put(request.input_ids)
    tokenizer = processor.tokenizer
    steps = []
    if arguments.trace:
        trace = Trace(model.config.traits.mask_token_id, lambda token: tokenizer.decode([token]))
        steps.append(trace)
    steps += [stream_steps(streamer)] if streamer is not None else []
    answer = answer_batch(
        model,
        processor,
        [request],
        config,
        lambda states: [step(states) for step in steps],
        logprobs=arguments.logprobs,
    )[0]
    if arguments.trace:
        pictures = [picture for item in media for picture in (item if isinstance(item, list) else [item])]
        write_trace(arguments.trace, trace.record(), arguments.prompt, pictures)
    if arguments.json:
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

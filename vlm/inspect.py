"""Tell what a checkpoint is: family, traits, sizes, memory, legal modes, what it reads, and what was inferred.

No weights are loaded, and tensors are counted, not compared. A directory that loading would refuse for anything else
is refused here with the same line.

python -m vlm.inspect embedded
python -m vlm.inspect runs/base --json
"""

import argparse
import json
import sys
from dataclasses import asdict

from vlm.checkpoints.describe import Description, describe
from vlm.checkpoints.files import local_directory
from vlm.checkpoints.load import EMBEDDED
from vlm.cli.command import carried_out


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m vlm.inspect",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="a checkpoint directory or hub id, or 'embedded'")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args(argv)
    return carried_out(lambda: _told(arguments))


def _told(arguments: argparse.Namespace) -> str:
    found = describe(str(EMBEDDED) if arguments.model == "embedded" else local_directory(arguments.model))
    return json.dumps(asdict(found), ensure_ascii=False) if arguments.json else text(found)


def text(found: Description) -> str:
    """The description as lines for a terminal."""
    lines = [f"{found.source}", f"family    {found.family}, language model {found.backbone}"]
    for name, (count, size) in found.parts.items():
        lines.append(f"part      {name:<16}{count:>16,} parameters  {megabytes(size)} in the files")
    for name, size in found.memory.items():
        lines.append(f"memory    {name:<28}{megabytes(size)}")
    lines.append(f"kv cache  {found.kv_bytes:,} bytes a token in float32")
    if found.traits is not None:
        for name, value in asdict(found.traits).items():
            lines.append(f"trait     {name:<22}{said(value):<16}{found.origins.get(name, 'default')}")
    for name, (what, where) in found.inputs.read.items():
        lines.append(f"reads     {name:<18}{what} ({where})")
    lines += [f"missing   {what}" for what in found.inputs.missing]
    for mode, reason in found.modes.items():
        lines.append(f"mode      {mode:<13}{'legal' if reason is None else 'refused: ' + reason}")
    if found.policies:
        lines.append(f"policies  {', '.join(found.policies)}")
    for name, value in found.conversion.items():
        lines.append(f"converted {name}: {value}")
    if found.note:
        lines.append(f"note      {found.note}")
    return "\n".join(lines)


def said(value: object) -> str:
    """A trait's value in words; many sizes in a row as the first and the last."""
    if isinstance(value, tuple) and len(value) > 8 and value == tuple(range(value[0], value[-1] + 1)):
        return f"{value[0]} to {value[-1]}"
    return str(value)


def megabytes(size: int) -> str:
    return f"{size / 1e6:>10,.1f} MB"


if __name__ == "__main__":
    sys.exit(main())

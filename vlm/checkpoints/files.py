"""What lies in a checkpoint directory, read without loading it: its configuration, and its tensors' names and shapes.

Only safetensors are read. Every way in which a directory can be incomplete or foreign ends in one line that names it,
before any weight is read.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
INDEX = "model.safetensors.index.json"
LFS_POINTER = b"version https://git-lfs"
SHARD = re.compile(r"-\d+-of-\d+\.safetensors$")
SHOWN = 10  # tensors that a message lists
# What a damaged or foreign file makes transformers, peft and tokenizers raise.
UNUSABLE = (
    OSError, ValueError, ArithmeticError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError,
    StrictDataclassError,
)  # fmt: skip


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message is one line and names the directory and the tensor or file."""


@dataclass(frozen=True)
class Tensor:
    """What a file says of a tensor: its shape, and its dtype by safetensors' names (``F32``, ``BF16`` …)."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def count(self) -> int:
        total = 1
        for side in self.shape:
            total *= side
        return total


def local_directory(model: str) -> str:
    """The directory of a checkpoint that is named by path or by hub id; the latter's safetensors are fetched.

    Raises:
        CheckpointError: there is no such directory, or the hub does not give it.
    """
    if Path(model).is_dir():
        return model
    if Path(model).exists() or model.count("/") != 1:
        raise CheckpointError(f"{model}: no such model directory")
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(model, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"])
    except Exception as error:  # the hub's client has errors of many families, none in common
        raise CheckpointError(f"{model}: not to be had from the hub ({one_line(error)})") from error


def read_config(directory: str) -> dict:
    """``config.json`` as a dict with a ``model_type``; CheckpointError if there is none."""
    found = read_json(Path(directory) / "config.json")
    if not isinstance(found, dict) or "model_type" not in found:
        raise CheckpointError(f"{directory}: no config.json, or none that says what model it is of")
    return found


def read_json(path: Path) -> dict | None:
    """A JSON file, None if it is not there; CheckpointError if it cannot be read."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: not readable as JSON ({one_line(error)})") from error


def read_tensors(directory: str) -> dict[str, Tensor]:
    """All tensors of a directory's safetensors, by name.

    Raises:
        CheckpointError: no safetensors, a shard that the index names is not there, or a file is cut off.
    """
    folder = Path(directory)
    files = shards(folder)
    if not files:
        pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
        if pickles:
            raise CheckpointError(
                f"{folder}: no .safetensors file; {pickles[0]} is a pickle, which can run code and is never opened"
            )
        raise CheckpointError(f"{folder}: no .safetensors file")
    return {name: tensor for path in files for name, tensor in read_header(path).items()}


def shards(folder: Path) -> list[Path]:
    """The safetensors files of a directory; CheckpointError if one that the index names is not there, or the index."""
    index = read_json(folder / INDEX)
    if index is None:
        found = sorted(folder.glob("*.safetensors"))
        pieces = [path.name for path in found if SHARD.search(path.name)]
        if pieces and not (folder / "model.safetensors").is_file():
            raise CheckpointError(f"{folder}: no {INDEX}, which names all the shards; here are {listed(pieces)}")
        return found
    try:
        names = sorted(set(index["weight_map"].values()))
    except (TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{folder / INDEX}: has no weight_map that says which file a tensor is in") from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder}: {len(missing)} of {len(names)} shards that {INDEX} names are missing ({listed(missing)})"
        )
    return [folder / name for name in names]


def read_header(path: Path) -> dict[str, Tensor]:
    """Shapes and dtypes in one safetensors file; CheckpointError if it is cut off or something else."""
    with open(path, "rb") as opened:
        start = opened.read(len(LFS_POINTER))
    if start == LFS_POINTER:
        raise CheckpointError(f"{path}: a git-lfs pointer, not the file itself (git lfs pull fetches it)")
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            return {name: Tensor(tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({one_line(error)})") from error


def refuse_differences(directory: str, told: dict) -> None:
    """CheckpointError that lists the first tensors that are missing, extra or misshapen, unless there are none.

    Args:
        told: what transformers' ``from_pretrained`` tells with ``output_loading_info``.
    """
    missing, extra = list(told["missing_keys"]), list(told["unexpected_keys"])
    misshapen = [(name, tuple(found), tuple(wanted)) for name, found, wanted in told["mismatched_keys"]]
    shapes = [f"{name} has shape {list(found)}, expected {list(wanted)}" for name, found, wanted in sorted(misshapen)]
    kinds = (("is missing", "are missing", missing), ("is not part of the model", "are not part of the model", extra))
    told = [f"tensor {listed(m)} {one}" if len(m) == 1 else f"{len(m)} tensors {many} ({listed(m)})"
            for one, many, m in kinds if m]  # fmt: skip
    if shapes:
        told.append(f"tensor {shapes[0]}" if len(shapes) == 1 else f"{len(shapes)} tensors differ ({listed(shapes)})")
    if told:
        raise CheckpointError(f"{directory}: {'; '.join(told)}")


def listed(names: list[str]) -> str:
    """The first few of ``names``, sorted, and how many more there are."""
    shown = ", ".join(sorted(names)[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__

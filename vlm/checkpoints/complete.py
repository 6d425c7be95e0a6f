"""What a directory must hold before any of it is loaded, beyond the files being whole.

A config that says less than it should is filled in by transformers with the sizes of a large model, whose weights are
then made up before the missing ones are told: that can take all the memory there is. So sizes are compared first.
"""

from pathlib import Path

from transformers import PreTrainedConfig

from vlm.checkpoints.files import CheckpointError, Tensor, listed, read_config, read_tensors

FLOATS = ("F64", "F32", "F16", "BF16")
OUTSIZED = 4  # times the numbers in the files: more is another model, less is told tensor by tensor


def check_own(source: str) -> None:
    """Refuse a directory of ours that is half there.

    Raises:
        CheckpointError: its config has no language model, a file is missing, or its weights are not plain numbers.
    """
    raw = read_config(source)
    if not any(isinstance(raw.get(name), dict) for name in ("text_config", "composite_config")):
        raise CheckpointError(f"{source}: config.json has no text_config, which says what the decoder is")
    for name in ("tokenizer.json", "generation_config.json"):
        if not (Path(source) / name).is_file():
            raise CheckpointError(f"{source}: no {name}")
    refuse_quantised(source, read_tensors(source))


def refuse_quantised(source: str, tensors: dict[str, Tensor]) -> None:
    """CheckpointError if the weights are not plain floating-point numbers; single numbers may count something."""
    odd = [name for name, tensor in tensors.items() if tensor.dtype not in FLOATS and tensor.shape]
    if odd or read_config(source).get("quantization_config"):
        kind = tensors[odd[0]].dtype if odd else "a quantization_config"
        raise CheckpointError(f"{source}: quantised weights ({kind}{' in ' + listed(odd) if odd else ''}) do not load")


def refuse_outsized(source: str, text: PreTrainedConfig, tensors: dict[str, Tensor]) -> None:
    """CheckpointError if a language model of this config is far larger than everything in the files."""
    told = text.vocab_size * text.hidden_size + text.num_hidden_layers * text.hidden_size**2  # less than it will have
    found = sum(tensor.count for tensor in tensors.values())
    if told > OUTSIZED * found:
        sizes = f"vocab_size {text.vocab_size}, hidden_size {text.hidden_size}, {text.num_hidden_layers} layers"
        raise CheckpointError(f"{source}: config.json ({sizes}) is of a larger model than the {found:,} numbers here")

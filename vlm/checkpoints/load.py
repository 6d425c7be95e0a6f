"""Load a checkpoint directory, strictly: every tensor present and of its shape, safetensors only, no remote code.

Without a name the embedded model is loaded, which is part of the package. Checkpoints of other projects' block
diffusion are translated on the way (`vlm.checkpoints.foreign`); any other model has to be converted first.
"""

import logging
from pathlib import Path

import torch

from vlm.checkpoints.complete import check_own, refuse_outsized
from vlm.checkpoints.families import FAMILIES
from vlm.checkpoints.files import (
    UNUSABLE,
    CheckpointError,
    local_directory,
    one_line,
    read_config,
    read_header,
    read_json,
    read_tensors,
    refuse_differences,
)
from vlm.checkpoints.foreign import load_foreign, refuse_unknown
from vlm.checkpoints.inputs import own_processor, refuse_contradictions
from vlm.checkpoints.quantize import check_kind
from vlm.checkpoints.quantize import quantize as quantized
from vlm.checkpoints.reading import weights_of
from vlm.checkpoints.whole import load_whole
from vlm.checkpoints.whole_families import WHOLE
from vlm.config import VLMConfig
from vlm.generation.config import BlockGenerationConfig
from vlm.model import VLMForBlockDiffusion
from vlm.processor import VLMProcessor

EMBEDDED = Path(__file__).parent.parent / "assets" / "demo"


def load(
    model: str | None = None,
    adapter: str | None = None,
    dtype: torch.dtype | None = None,
    device: str | None = None,
    quantize: str | None = None,
) -> tuple[VLMForBlockDiffusion, VLMProcessor]:
    """A model in evaluation mode and its processor.

    Args:
        model: a checkpoint directory or hub id, ours or of a family in `vlm.checkpoints.families` or
            `whole_families`; None loads the base that ``adapter`` names, without an adapter the embedded model.
        adapter: a PEFT adapter directory, merged into the weights.
        dtype: None means float32 on CPU (bfloat16 is slow on those without AVX-512) and bfloat16 on CUDA.
        device: None means CUDA where there is one, else CPU.
        quantize: ``int8`` or ``nf4``, of the decoder's linear layers, see `vlm.checkpoints.quantize`; None keeps them.

    Raises:
        CheckpointError: one line that names what is wrong.
        ValueError: the device cannot be used here, or the quantisation is unknown or not possible on it.
    """
    if quantize is not None:
        check_kind(quantize)
    if model is None and adapter is not None:
        model = base_of(adapter)
    device, dtype = placed(device, dtype)
    source = str(EMBEDDED) if model is None else local_directory(model)
    try:
        kind = read_config(source)["model_type"]
        if kind in FAMILIES:
            loaded, processor = load_foreign(source, dtype)
        elif kind in WHOLE:
            loaded, processor = load_whole(source, dtype)
        elif kind == VLMConfig.model_type:
            loaded, processor = _load_own(source, dtype)
        else:
            refuse_unknown(source)
        refuse_contradictions(source, loaded.config, processor)
    except CheckpointError:
        raise
    except UNUSABLE as error:
        raise CheckpointError(f"{source}: not a usable checkpoint ({one_line(error)})") from error
    if adapter is not None:
        loaded = merged(loaded, adapter)
    loaded = loaded.to(device).eval()
    return (loaded if quantize is None else quantized(loaded, quantize)), processor


def placed(device: str | None, dtype: torch.dtype | None) -> tuple[str, torch.dtype]:
    """Where and in what a model is loaded, `load`'s defaults filled in; ValueError if the device cannot be used."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        raise ValueError(f"device {device!r} cannot be used ({one_line(error)})") from error
    return device, dtype or (torch.bfloat16 if device.startswith("cuda") else torch.float32)


def _load_own(source: str, dtype: torch.dtype) -> tuple[VLMForBlockDiffusion, VLMProcessor]:
    weights = weights_of(source, dtype)  # refuses what is incomplete before anything is loaded
    check_own(source)
    config = VLMConfig.from_pretrained(source)
    refuse_outsized(source, config.text_config, read_tensors(source))
    loaded, told = VLMForBlockDiffusion.from_pretrained(
        **weights, config=config, dtype=dtype, use_safetensors=True, ignore_mismatched_sizes=True,
        output_loading_info=True, generation_config=BlockGenerationConfig.from_pretrained(source),
    )  # fmt: skip
    refuse_differences(source, told)
    loaded.name_or_path = loaded.config.name_or_path = source
    return loaded, own_processor(source, config)


def base_of(adapter: str) -> str:
    """The base that an adapter was trained on, by its own configuration: a directory or a hub id.

    The embedded model stands elsewhere in every installation, so it is known by the end of its path.

    Raises:
        CheckpointError: there is no adapter, or its base is not to be had; one line that names both.
    """
    config = read_json(Path(adapter) / "adapter_config.json")
    if not isinstance(config, dict):
        raise CheckpointError(f"{adapter}: no adapter_config.json, not an adapter directory")
    named = config.get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise CheckpointError(f"{adapter}: does not say what its base is; name it with --model")
    if Path(named).is_dir():
        return named
    if Path(named).parts[-3:] == EMBEDDED.parts[-3:]:
        return str(EMBEDDED)
    try:
        return local_directory(named)
    except CheckpointError as error:
        raise CheckpointError(f"{adapter}: its base {named!r} is not here ({error}); name it with --model") from error


def merged(model: VLMForBlockDiffusion, adapter: str) -> VLMForBlockDiffusion:
    """``model`` with the weights of a PEFT adapter directory added to its own; CheckpointError if they do not fit."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (Path(adapter) / name).is_file():
            raise CheckpointError(f"{adapter}: no {name}, not an adapter directory")
    found = read_header(Path(adapter) / "adapter_model.safetensors")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it, and it speaks of optional kernels
    from peft import PeftModel, get_peft_model_state_dict

    try:
        adapted = PeftModel.from_pretrained(model, adapter)
    except UNUSABLE as error:
        raise CheckpointError(f"{adapter}: the adapter does not fit the model ({one_line(error)})") from error
    unmatched = sorted(found.keys() ^ get_peft_model_state_dict(adapted).keys())
    if unmatched:  # peft only warns
        raise CheckpointError(f"{adapter}: the adapter does not fit the model (tensor {unmatched[0]})")
    return adapted.merge_and_unload()

"""Load a checkpoint directory, strictly: every tensor present and of its shape, safetensors only, no remote code.

Without a name the embedded model is loaded, which is part of the package.
"""

import logging
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig

from vlm.checkpoints.quantize import check_kind
from vlm.checkpoints.quantize import quantize as quantized
from vlm.config import VLMConfig
from vlm.model import VLMForBlockDiffusion
from vlm.processor import VLMProcessor

EMBEDDED = Path(__file__).parent.parent / "assets" / "demo"


# What a damaged or foreign file makes transformers and peft raise.
_UNUSABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError)


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message is one line and names the directory and the tensor or file."""


def load(
    model: str | None = None,
    adapter: str | None = None,
    dtype: torch.dtype | None = None,
    device: str | None = None,
    quantize: str | None = None,
) -> tuple[VLMForBlockDiffusion, VLMProcessor]:
    """A model in evaluation mode and its processor.

    Args:
        model: a checkpoint directory or hub id; None loads the embedded model.
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
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    _check_device(device)
    dtype = dtype or (torch.bfloat16 if device.startswith("cuda") else torch.float32)
    source = str(EMBEDDED) if model is None else model
    if model is not None and not Path(model).is_dir() and (Path(model).exists() or model.count("/") != 1):
        raise CheckpointError(f"{model}: no such model directory")
    try:
        _check_type(source)
        config = VLMConfig.from_pretrained(source)
        if Path(source).is_dir():
            _check_tensors(Path(source), config)
        loaded = VLMForBlockDiffusion.from_pretrained(source, config=config, dtype=dtype, use_safetensors=True)
        processor = VLMProcessor.from_pretrained(source)
        if processor.vision_config != config.vision_config:
            raise CheckpointError(f"{source}: processor_config.json is missing, or of another vision encoder")
    except CheckpointError:
        raise
    except (*_UNUSABLE, SafetensorError) as error:
        raise CheckpointError(f"{source}: not a usable checkpoint ({_one_line(error)})") from error
    if adapter is not None:
        loaded = merged(loaded, adapter)
    loaded = loaded.to(device).eval()
    return (loaded if quantize is None else quantized(loaded, quantize)), processor


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        raise ValueError(f"device {device!r} cannot be used ({_one_line(error)})") from error


def _check_type(source: str) -> None:
    """Refuse another model's directory; transformers would go on with a warning, or with defaults."""
    kind = PreTrainedConfig.get_config_dict(source)[0].get("model_type")
    if kind is None:
        raise CheckpointError(f"{source}: no config.json, or none that says what model it is of")
    if kind != VLMConfig.model_type:
        raise CheckpointError(f"{source}: a model of type {kind!r}, not {VLMConfig.model_type!r}")


def _check_tensors(directory: Path, config: VLMConfig) -> None:
    """Compare the files' tensor names and shapes with the model's, without allocating it."""
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{directory}: no .safetensors file")
    found = {name: shape for path in files for name, shape in _shapes(path).items()}
    with torch.device("meta"):
        model = VLMForBlockDiffusion(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = set(model.all_tied_weights_keys)
    for name, shape in expected.items():
        if name not in found:
            if name in tied:
                continue
            raise CheckpointError(f"{directory}: tensor {name} is missing")
        if found[name] != shape:
            raise CheckpointError(f"{directory}: tensor {name} has shape {list(found[name])}, expected {list(shape)}")


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(path, framework="pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({_one_line(error)})") from error


def merged(model: VLMForBlockDiffusion, adapter: str) -> VLMForBlockDiffusion:
    """``model`` with the weights of a PEFT adapter directory added to its own; CheckpointError if they do not fit."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (Path(adapter) / name).is_file():
            raise CheckpointError(f"{adapter}: no {name}, not an adapter directory")
    found = _shapes(Path(adapter) / "adapter_model.safetensors")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it, and it speaks of optional kernels
    from peft import PeftModel, get_peft_model_state_dict

    try:
        adapted = PeftModel.from_pretrained(model, adapter)
    except _UNUSABLE as error:
        raise CheckpointError(f"{adapter}: the adapter does not fit the model ({_one_line(error)})") from error
    unmatched = sorted(found.keys() ^ get_peft_model_state_dict(adapted).keys())
    if unmatched:  # peft only warns
        raise CheckpointError(f"{adapter}: the adapter does not fit the model (tensor {unmatched[0]})")
    return adapted.merge_and_unload()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__

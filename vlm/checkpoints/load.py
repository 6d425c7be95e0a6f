"""Load a checkpoint directory, strictly: every tensor present and of its shape, safetensors only, no remote code.

Without a name the embedded model is loaded, which is part of the package.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from vlm.config import VLMConfig
from vlm.model import VLMForBlockDiffusion
from vlm.processor import VLMProcessor

EMBEDDED = Path(__file__).parent.parent / "assets" / "demo"


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message is one line and names the directory and the tensor or file."""


def load(
    model: str | None = None, adapter: str | None = None, dtype: torch.dtype | None = None, device: str | None = None
) -> tuple[VLMForBlockDiffusion, VLMProcessor]:
    """A model in evaluation mode and its processor.

    Args:
        model: a checkpoint directory or hub id; None loads the embedded model.
        adapter: a PEFT adapter directory, merged into the weights.
        dtype: None means float32 on CPU (bfloat16 matmuls are orders of magnitude slower there) and bfloat16 on CUDA.
        device: None means CUDA where there is one, else CPU.

    Raises:
        CheckpointError: one line that names what is wrong.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or (torch.bfloat16 if device.startswith("cuda") else torch.float32)
    source = str(EMBEDDED) if model is None else model
    if model is not None and not Path(model).is_dir() and (Path(model).exists() or model.count("/") != 1):
        raise CheckpointError(f"{model}: no such model directory")
    try:
        config = VLMConfig.from_pretrained(source)
        if Path(source).is_dir():
            _check_tensors(Path(source), config)
        loaded = VLMForBlockDiffusion.from_pretrained(source, config=config, dtype=dtype, use_safetensors=True)
        processor = VLMProcessor.from_pretrained(source)
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{source}: not a usable checkpoint ({_first_line(error)})") from error
    if adapter is not None:
        loaded = _merged(loaded, adapter)
    return loaded.to(device).eval(), processor


def _check_tensors(directory: Path, config: VLMConfig) -> None:
    """Compare the files' tensor names and shapes with the model's, without allocating it."""
    found: dict[str, tuple[int, ...]] = {}
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{directory}: no .safetensors file")
    for path in files:
        try:
            with safe_open(path, framework="pt") as tensors:
                found.update({name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()})
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: not a readable safetensors file ({_first_line(error)})") from error
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


def _merged(model: VLMForBlockDiffusion, adapter: str) -> VLMForBlockDiffusion:
    from peft import PeftModel

    if not (Path(adapter) / "adapter_config.json").is_file():
        raise CheckpointError(f"{adapter}: no adapter_config.json, not an adapter directory")
    try:
        return PeftModel.from_pretrained(model, adapter).merge_and_unload()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{adapter}: the adapter does not fit the model ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__

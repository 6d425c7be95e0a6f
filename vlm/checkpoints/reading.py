"""How a directory's weights reach ``from_pretrained``: mapped in the dtype of the files, read for any other.

Mapped weights cost nothing until they are used, and then the file's size. Where each tensor becomes another one in
another dtype, though, the mapped file would stay in memory beside the new weights to the end of loading; read, a
tensor is gone once it has been converted.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from vlm.checkpoints.files import read_tensors, shards

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def weights_of(source: str, dtype: torch.dtype | str) -> dict[str, Any]:
    """The arguments of a model class's ``from_pretrained`` that say where its weights are.

    Args:
        source: a directory with safetensors.
        dtype: that the model shall have; ``auto`` is that of the files.

    Raises:
        CheckpointError: the directory is incomplete.
    """
    found = {_DTYPES.get(tensor.dtype) for tensor in read_tensors(source).values()} - {None}
    if dtype == "auto" or found <= {dtype}:
        return {"pretrained_model_name_or_path": source}
    files = [safe_open(path, framework="pt", backend="pread") for path in shards(Path(source))]
    unread = {name: file.get_slice(name) for file in files for name in file.keys()}
    return {"pretrained_model_name_or_path": None, "state_dict": unread}

"""What a result was measured with: a fingerprint of the weights, the code's version, libraries, hardware."""

import hashlib
import os
import platform
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGE = "block-diffusion-vlm"
ROOT = Path(__file__).parent.parent


def model_hash(model) -> str:
    """SHA-256 over names, types, shapes and bytes of all that the model's state holds, its first 16 digits.

    A quantised model's state also holds packed weights, types and numbers; they count as well.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        _add(digest, value)
    return digest.hexdigest()[:16]


def _add(digest, value: Any) -> None:
    if isinstance(value, (tuple, list)):
        for entry in value:
            _add(digest, entry)
    elif isinstance(value, torch.Tensor):
        plain = (value.dequantize() if value.is_quantized else value).detach().cpu().contiguous()
        digest.update(f"{plain.dtype} {list(plain.shape)}".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy())
    else:
        digest.update(repr(value).encode())


def code_version() -> str:
    """The package's version, and the commit if the code runs from its repository."""
    try:
        found = version(PACKAGE)
    except PackageNotFoundError:  # run from its repository without being installed
        found = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    commit = _commit()
    return f"{found} ({commit})" if commit else found


def libraries() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in ("torch", "transformers", "timm")}}


def hardware(model) -> dict[str, Any]:
    """Processor, cores, threads, memory, and what the model stands on."""
    device = model.device
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": _memory(),
        "device": str(device),
        **gpu,
        "dtype": str(model.dtype).removeprefix("torch."),
        "system": platform.system(),
    }


def _commit() -> str:
    """Short hash of the repository's commit; empty if there is none, or no git."""
    if not (ROOT / ".git").exists():
        return ""
    try:
        command = ["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory() -> float | None:
    """GiB of memory; None where the system does not say."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None

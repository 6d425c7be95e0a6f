"""A learned filter that says which proposals are final already (Learn2PD, arXiv 2509.25188).

The filter is a net of one hidden layer over the confidences of a block's slots. It belongs to one model, one block
size and greedy decoding: `vlm.training.fit_filter` fits it on the model's own decoding and writes what it belongs to
into the file, and `check_filter` refuses it anywhere else.
"""

from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vlm.generation.ranking import rank, require, require_number, usable
from vlm.generation.scoring import Scores

TENSORS = ("up.weight", "up.bias", "down.weight", "down.bias")


@dataclass(frozen=True)
class Learn2PD:
    """Slots that the filter accepts, and an even quota of the best ones (arXiv 2509.25188).

    What the filter sees: of open slots the confidence, of filled ones that at which they were committed (the paper
    reads them again), 1 of tokens that stood there before. ``accept`` is the paper's notebook's.

    Attributes:
        filter: a file of `vlm.training.fit_filter`.
        accept: a slot is final if the filter's probability exceeds this; 1 or more leaves the quota alone.
        steps: of the quota, see `Static`; None means one slot a step.
    """

    filter: str = ""
    accept: float = 0.9
    steps: int | None = None

    def __post_init__(self):
        require_number("accept", self.accept)
        require(self.steps is None or self.steps >= 1, "steps", self.steps, "be at least 1")

    def select(self, scores: Scores, is_open, step, size, committed=None) -> torch.Tensor:
        slots = size.clamp(min=1)
        steps = slots if self.steps is None else slots.clamp(max=self.steps)
        quota = slots // steps + (step < slots % steps)  # [B]
        chosen = rank(usable(scores.rank, is_open)) < quota.unsqueeze(-1)
        if self.accept < 1:
            weights = read_filter(self.filter)[0]
            seen = features(scores.probability, is_open, committed)
            chosen = chosen | (accepted(weights, seen) > self.accept)
        return is_open & chosen


def features(probability: torch.Tensor, is_open: torch.Tensor, committed: torch.Tensor) -> torch.Tensor:
    """What the filter sees of blocks [B, W], float32."""
    seen = torch.where(is_open, probability.nan_to_num(nan=0.0), committed.to(probability.dtype).nan_to_num(nan=1.0))
    return seen.float()


def accepted(weights: dict[str, torch.Tensor], seen: torch.Tensor) -> torch.Tensor:
    """Probability that each proposal is final [B, W]; blocks narrower than the filter's are filled up with ones."""
    width = weights["up.weight"].shape[1]
    padded = torch.nn.functional.pad(seen[:, :width], (0, max(0, width - seen.shape[1])), value=1.0)
    up, up_bias, down, down_bias = (weights[name].to(seen.device) for name in TENSORS)
    hidden = torch.relu(padded @ up.T + up_bias)
    found = torch.sigmoid(hidden @ down.T + down_bias)
    return torch.nn.functional.pad(found, (0, max(0, seen.shape[1] - width)))[:, : seen.shape[1]]


@lru_cache(maxsize=8)
def read_filter(path: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """A filter's weights and what it belongs to.

    Raises:
        ValueError: for a file that is no filter, naming it.
    """
    if not path:
        raise ValueError("learn2pd needs a filter: fit one with python -m vlm.training.fit_filter")
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in TENSORS}, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"filter {path}: cannot be read ({error})") from None


def write_filter(path: str, weights: dict[str, torch.Tensor], model, block_size: int) -> None:
    """Write a filter and what it belongs to."""
    save_file(weights, path, {"block_size": str(block_size), "model": fingerprint(model)})


def check_filter(path: str, model, block_size: int) -> None:
    """ValueError unless the filter at ``path`` was fitted to this model and block size; names both sides."""
    found = read_filter(path)[1]
    if found.get("block_size") != str(block_size):
        raise ValueError(f"filter {path} was fitted to block_size {found.get('block_size')}, not to {block_size}")
    if found.get("model") != fingerprint(model):
        raise ValueError(f"filter {path} was fitted to model {found.get('model')}, not to {fingerprint(model)}")


def fingerprint(model) -> str:
    """Eight hex digits of the decoder's norms, which quantisation leaves alone and every training step changes."""
    norms = [p for name, p in model.language_model.named_parameters() if p.ndim == 1 and "norm" in name]
    values = torch.cat([norm.detach().flatten().cpu().bfloat16() for norm in norms]).view(torch.int16)
    return blake2b(values.numpy().tobytes(), digest_size=4).hexdigest()

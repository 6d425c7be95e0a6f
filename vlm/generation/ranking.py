"""Ranking the slots of a block, and refusing parameters that no rule can have: what every commit policy needs."""

from numbers import Real

import torch


def usable(value: torch.Tensor, is_open: torch.Tensor) -> torch.Tensor:
    """Higher-is-better values that can be ranked [B, W]: finite at open slots (NaN the lowest), -inf elsewhere."""
    return value.nan_to_num(nan=torch.finfo(value.dtype).min).masked_fill(~is_open, -torch.inf)


def rank(value: torch.Tensor) -> torch.Tensor:
    """Place of every slot in its row, the highest value 0, ties from the left [B, W]."""
    return value.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)


def require(holds: bool, name: str, value: object, rule: str) -> None:
    """ValueError that names a parameter and its value unless the rule holds."""
    if not holds:
        raise ValueError(f"{name} {value} must {rule}")


def require_number(name: str, value: float) -> None:
    require(isinstance(value, Real) and value == value, name, value, "be a number")  # NaN alone differs from itself

"""The losses of a micro-batch: what a training step sums, and the nominal NELBO that recipes are compared by.

Both ask the model for cross-entropies at the supervised rows, in one forward pass, so that whatever wraps the model
(several processes, shards) sees an ordinary call.
"""

import torch

from vlm.objective import weighted
from vlm.training.collate import IGNORED, rows_of


def losses(
    model, batch: dict[str, torch.Tensor], shift: int, totals: dict[str, float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The diffusion loss and the next-token loss of one micro-batch, each over the update's normaliser.

    Args:
        batch: what `collate` makes.
        shift: the model's prediction shift.
        totals: the normalisers, ``diffusion`` and ``next``.
    """
    targets, next_targets = batch["targets"].flatten(), batch["next_targets"].flatten()
    masked, nexts = _supervised(targets), _supervised(next_targets)  # [S] rows to be predicted, [N] that predict
    at, wanted = torch.cat([masked - shift, nexts]), torch.cat([targets[masked], next_targets[nexts]])
    diffusion, ar = _cross_entropies(model, batch, at, wanted).split([len(masked), len(nexts)])
    weights = batch["weights"].flatten()[masked]
    return weighted(diffusion, weights, totals["diffusion"]), weighted(ar, torch.ones_like(ar), totals["next"])


def nelbo(model, batch: dict[str, torch.Tensor], shift: int, slots: float) -> float:
    """A batch's share of the NELBO of ``slots`` supervised slots, nats (`vlm.training.heldout`)."""
    targets = batch["targets"].flatten()
    masked = _supervised(targets)
    found = _cross_entropies(model, batch, masked - shift, targets[masked])
    return weighted(found, batch["weights"].flatten()[masked], slots).item()


def _supervised(targets: torch.Tensor) -> torch.Tensor:
    return torch.nonzero(targets != IGNORED).squeeze(-1)


def _cross_entropies(model, batch: dict[str, torch.Tensor], at: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropies [S] of ``targets`` [S] at flat row indices ``at`` [S] of a micro-batch."""
    media = {k: batch[k] for k in ("pixel_values", "pixel_values_videos", "media") if k in batch}
    rows, source = rows_of(batch), batch["source"]
    return model(input_ids=batch["ids"], rows=rows, source=source, logits_at=at, targets=targets, **media).losses

"""Makes ``import torchvision`` work beside a CPU-only torch; import this module before timm, peft or transformers.

The common torchvision wheel is linked to CUDA libraries that a CPU-only torch lacks. Its compiled operators then stay
unregistered, and torchvision's own import fails while it describes them. Declaring the schemas of those operators is
enough for the import, and with it for transforms, timm models and image processors; the compiled box operators
themselves remain unusable. With a matching torchvision, or with none, nothing is changed.
"""

import importlib
import sys

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

# A Library takes its schemas back when it is collected, so it lives as long as this module.
_library: torch.library.Library | None = None


def import_torchvision() -> None:
    """Import torchvision, declaring the operators that its compiled part failed to register."""
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        _drop_half_imported()
        _declare_operators()
        importlib.import_module("torchvision")


def _drop_half_imported() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]


def _declare_operators() -> None:
    global _library
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        _library.define(schema)


import_torchvision()

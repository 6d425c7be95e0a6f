"""This package's models inside lmms-eval, the harness of public benchmarks, as its plugin.

    python -m eval.lmms_plugin --model block_diffusion_vlm --model_args pretrained=DIR,suite=sdar_vl_21 --tasks mmstar

lmms-eval finds `manifest` through the entry point ``lmms_eval.models``. The deciding choice: nothing of lmms-eval is
imported before it is needed, so that the package works without it.
"""

from importlib.util import find_spec

EXTRA = 'pip install "block-diffusion-vlm[lmms]"'
NAME = "block_diffusion_vlm"


def manifest():
    """What lmms-eval's registry takes: the chat class, and the simple one that ``--force_simple`` asks for.

    Tasks that compare likelihoods are of the simple kind in lmms-eval.
    """
    from lmms_eval.models.registry_v2 import ModelManifest

    place = "eval.lmms_plugin.model"
    return ModelManifest(NAME, f"{place}.BlockDiffusionSimple", f"{place}.BlockDiffusion", aliases=("vlm",))


def check_installed(what: str) -> None:
    """ValueError with the command that installs lmms-eval, if it is not there."""
    if find_spec("lmms_eval") is None:
        raise ValueError(f"{what} needs lmms-eval, which is not installed: {EXTRA}")

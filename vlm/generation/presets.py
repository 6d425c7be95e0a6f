"""Published decoders by name: which slots of the loop each fills, with what values, and where ours differs.

Two tables and nothing more: the rules are in the strategies' own files. A preset sets every setting that decides how a
block is decoded; what is given beside its name prevails. What a checkpoint cannot run is refused when the strategy is
built, by a sentence that names what is needed and what is there.
"""

from typing import Any

from vlm.config import DiffusionTraits
from vlm.generation.config import BlockGenerationConfig
from vlm.generation.preset import Preset
from vlm.generation.presets_commit import COMMITTING
from vlm.generation.presets_passes import PASSES
from vlm.generation.slots import goes_with
from vlm.generation.spans import default_size

PRESETS: dict[str, Preset] = {**COMMITTING, **PASSES}


def override(config: BlockGenerationConfig, given: dict[str, Any], traits: DiffusionTraits) -> None:
    """Set ``given`` settings; a ``decoder`` among them first sets everything its preset decides.

    Fields in a given ``slots`` are set beside the preset's own. A mode that is given without a block size takes its
    own default (`spans.default_size`) where the size so far was no more than the default of the mode before; slots
    that it has no use for are left out, unless they or a ``decoder`` are given with it.

    Raises:
        ValueError: for a preset that there is not.
    """
    given = dict(given)
    if given.get("decoder") is not None:
        preset = preset_named(given["decoder"])
        same = given.get("policy") in (None, preset.policy)
        _fill(config, preset, traits)
        config.policy_args = preset.policy_args if same else None
        if same and given.get("policy_args"):
            given["policy_args"] = {**(preset.policy_args or {}), **given["policy_args"]}
        if isinstance(given.get("slots"), dict):
            names = {**preset.slots, **given["slots"]}
            given["slots"] = {name: {**preset.slots.get(name, {}), **(names[name] or {})} for name in names}
    mode = given.get("mode") or config.mode
    if mode != config.mode and config.block_size in (None, default_size(traits, config.mode)):
        config.block_size = default_size(traits, mode)
    if mode != config.mode and given.get("decoder") is None:
        config.slots = {name: kept for name, kept in (config.slots or {}).items() if goes_with(name, mode)} or None
    for name, value in given.items():
        setattr(config, name, value)


def _fill(config: BlockGenerationConfig, preset: Preset, traits: DiffusionTraits) -> None:
    sizes = [size for size in traits.trained_block_sizes if preset.block_size and size <= preset.block_size]
    config.block_size = max(sizes, default=None)
    config.slots = {name: dict(fields) for name, fields in preset.slots.items()} or None
    for name in ("mode", "policy", "threshold", "denoising_steps"):
        setattr(config, name, getattr(preset, name))


def preset_named(name: str) -> Preset:
    """The preset of that name; ValueError, naming all, if there is none."""
    if name not in PRESETS:
        raise ValueError(f"decoder {name!r} is not one of {', '.join(PRESETS)}")
    return PRESETS[name]

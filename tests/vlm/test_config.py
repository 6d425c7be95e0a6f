"""Traits: what they refuse, and that a config keeps them."""

import pytest

from vlm import DiffusionTraits, VLMConfig


@pytest.mark.parametrize(
    "traits, message",
    [
        ({"context_attention": "sideways"}, "context_attention 'sideways' is not one of"),
        ({"prediction_shift": 2}, "prediction_shift 2"),
        ({"block_size": 0, "trained_block_sizes": (0,)}, "block_size 0 must be at least 1"),
        ({"block_size": 8, "trained_block_sizes": (4,)}, "block_size 8 is not in trained_block_sizes"),
        ({"context_attention": "block_causal", "ar_mode": True}, "ar_mode needs causal context"),
        ({"block_attention": "causal", "context_attention": "full"}, "'causal' needs context_attention 'causal'"),
        ({"block_attention": "causal", "prediction_shift": 1}, "'causal' needs prediction_shift 0, not 1"),
        ({"block_attention": "causal", "noise": "mixed"}, "'causal' needs noise 'mask', not 'mixed'"),
        (
            {"media_attention": "bidirectional", "block_origin": "sequence"},
            "needs block_origin 'response'",
        ),
    ],
)
def test_impossible_traits_are_refused(traits, message):
    with pytest.raises(ValueError, match=message):
        DiffusionTraits(**traits)


def test_config_round_trip(tmp_path):
    traits = DiffusionTraits(context_attention="causal", ar_mode=True, trained_block_sizes=(4, 8), mask_token_id=7)
    config = VLMConfig(text_config={"model_type": "llama", "hidden_size": 64}, diffusion=traits, image_token_id=3)
    config.save_pretrained(tmp_path)
    loaded = VLMConfig.from_pretrained(tmp_path)
    assert loaded.traits == traits
    assert loaded.text_config.model_type == "llama" and loaded.text_config.hidden_size == 64
    assert loaded.image_token_id == 3

"""The model's configuration, and the diffusion traits that say what a checkpoint can do.

A checkpoint is a vision encoder, a projector and an unmodified transformers causal language model, each described by
its own section. The traits are plain fields of the config, read through `VLMConfig.traits`; training and decoding
consult them and refuse what the weights were not trained for.
"""

from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, get_args, get_origin, get_type_hints

from transformers import AutoConfig, PreTrainedConfig


@dataclass(frozen=True)
class DiffusionTraits:
    """How a checkpoint was adapted to block diffusion.

    Attributes:
        context_attention: how clean tokens see clean tokens: ``causal`` (NBDiff, Fast-dVLM), ``block_causal`` (SDAR,
            DiffusionVL, BD3-LM) or ``full`` (LLaDA-V).
        block_attention: how rows of one noisy block see each other: ``bidirectional``, or ``causal`` in an order of
            their own, what is known first and masks behind, each by position (WeDLM).
        prediction_shift: 0 if a noisy row predicts its own token, 1 if it predicts the next one. Clean rows always
            predict the next token.
        block_origin: whether the block grid starts at the sequence's start or at each response.
        block_size: the default block size in tokens.
        trained_block_sizes: every block size seen in training.
        mask_token_id: the token that stands for "not yet written".
        noise: what noise writes: ``mask``, ``uniform`` random tokens, or ``mixed``.
        noise_range: lowest and highest mask ratio seen in training.
        ar_mode: clean rows were trained on next-token prediction, so the weights also run as a plain AR model.
        off_grid_ok: blocks need not start on the training grid.
        multi_open_ok: several blocks may be open at once.
        media_attention: how media tokens see each other.
        positions: ``1d`` or ``mrope`` rotary positions.
    """

    context_attention: Literal["causal", "block_causal", "full"] = "causal"
    block_attention: Literal["bidirectional", "causal"] = "bidirectional"
    prediction_shift: Literal[0, 1] = 0
    block_origin: Literal["sequence", "response"] = "response"
    block_size: int = 8
    trained_block_sizes: tuple[int, ...] = (8,)
    mask_token_id: int = 0
    noise: Literal["mask", "uniform", "mixed"] = "mask"
    noise_range: tuple[float, float] = (0.0, 1.0)
    ar_mode: bool = False
    off_grid_ok: bool = False
    multi_open_ok: bool = False
    media_attention: Literal["causal", "bidirectional"] = "causal"
    positions: Literal["1d", "mrope"] = "1d"

    def __post_init__(self):
        choices = {
            name: get_args(kind) for name, kind in get_type_hints(type(self)).items() if get_origin(kind) is Literal
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} {getattr(self, name)!r} is not one of {', '.join(map(repr, allowed))}")
        for name in ("block_size", "mask_token_id"):
            if not isinstance(getattr(self, name), Integral):
                raise ValueError(f"{name} {getattr(self, name)!r} must be a whole number")
        if self.block_size < 1:
            raise ValueError(f"block_size {self.block_size} must be at least 1")
        if self.block_size not in self.trained_block_sizes:
            raise ValueError(f"block_size {self.block_size} is not in trained_block_sizes {self.trained_block_sizes}")
        if self.ar_mode and self.context_attention != "causal":
            raise ValueError(
                f"ar_mode needs causal context, not {self.context_attention!r}, under which clean rows see the future"
            )
        if self.block_attention == "causal":
            self._check_causal_blocks()
        if self.media_attention == "bidirectional" and self.block_origin == "sequence":
            raise ValueError(
                "media_attention 'bidirectional' needs block_origin 'response': on the sequence's grid a block may "
                "begin inside a picture, which then could not see itself whole"
            )

    def _check_causal_blocks(self):
        needed = {
            "context_attention": ("causal", "a block's known rows see what clean rows see"),
            "prediction_shift": (0, "in the order of its rows the row before a mask's is no slot before it"),
            "noise": ("mask", "the order puts masks behind what is known, and random tokens are neither"),
        }
        for name, (value, reason) in needed.items():
            found = getattr(self, name)
            if found != value:
                raise ValueError(f"block_attention 'causal' needs {name} {value!r}, not {found!r}: {reason}")


TRAIT_NAMES = tuple(DiffusionTraits.__dataclass_fields__)


class VLMConfig(PreTrainedConfig):
    """Configuration of `VLMForBlockDiffusion`.

    Args:
        text_config: config (or its dict, with ``model_type``) of any transformers causal language model.
        vision_config: a `vision_encoders.VisionConfig` as a dict.
        projector_hidden_size: width of the projector's hidden layer; None means the language model's width.
        image_token_id, video_token_id: placeholders that media features replace, one per feature.
        frame_pool: side of the square of neighbouring features that a video frame averages into one.
        diffusion: the traits, see `DiffusionTraits`.
        composite_config: config (or its dict) of a whole transformers vision-language model that is the decoder, see
            `vlm.composite`; its text model's config is then ``text_config``, and there is no ``vision_config``.
    """

    model_type = "block_diffusion_vlm"
    sub_configs = {"text_config": AutoConfig, "composite_config": AutoConfig}

    def __init__(
        self,
        text_config: PreTrainedConfig | dict | None = None,
        vision_config: dict[str, Any] | None = None,
        projector_hidden_size: int | None = None,
        image_token_id: int = 0,
        video_token_id: int = 0,
        frame_pool: int = 2,
        diffusion: DiffusionTraits | dict | None = None,
        composite_config: PreTrainedConfig | dict | None = None,
        **kwargs,
    ):
        if isinstance(composite_config, dict):
            composite_config = AutoConfig.for_model(**composite_config)
        self.composite_config = composite_config
        if composite_config is not None:
            text_config = composite_config.get_text_config()
        elif isinstance(text_config, dict):
            text_config = AutoConfig.for_model(**text_config)
        self.text_config = text_config if text_config is not None else AutoConfig.for_model("qwen3")
        self.vision_config = vision_config or {}
        self.projector_hidden_size = projector_hidden_size
        self.image_token_id = image_token_id
        self.video_token_id = video_token_id
        self.frame_pool = frame_pool
        traits = diffusion if isinstance(diffusion, DiffusionTraits) else DiffusionTraits(**_plain(diffusion))
        for name, value in (("media_attention", "bidirectional"), ("positions", "mrope")):
            if composite_config is None and getattr(traits, name) == value:
                raise ValueError(f"{name} {value!r} needs a composite_config: no other decoder here has it")
        self.diffusion = {name: getattr(traits, name) for name in TRAIT_NAMES}
        kwargs.setdefault("tie_word_embeddings", (composite_config or self.text_config).tie_word_embeddings)
        super().__init__(**kwargs)

    @property
    def traits(self) -> DiffusionTraits:
        return DiffusionTraits(**_plain(self.diffusion))


def _plain(traits: dict | None) -> dict:
    """Traits as read from JSON: lists back to tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in (traits or {}).items()}

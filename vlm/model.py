"""The model: a vision encoder, a projector and an unmodified transformers causal language model.

The last may be a whole vision-language model of transformers instead, which brings its own encoder (`vlm.composite`).

Everything block diffusion needs reaches the language model through public arguments: explicit positions, a 4-D mask
computed by the one attention rule, input embeddings and a `Cache`. `decode` is that single pass; training and
inference both go through it and differ only in the rows they feed.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel
from transformers.utils import ModelOutput

from vision_encoders import Pictures, VisionConfig, build_vision_encoder
from vlm.attention import PADDING, Rows, masks_for
from vlm.cache import BlockCache
from vlm.composite import encode
from vlm.composite_rows import Beside, beside_rows, open_pictures
from vlm.config import VLMConfig
from vlm.flash import Part, attending
from vlm.generation.config import BlockGenerationConfig
from vlm.generation.generate import generate
from vlm.objective import cross_entropies
from vlm.projector import Projector, pool_grid

# Config fields by which transformers models transform their logits outside the output embedding.
_UNSUPPORTED_LOGIT_FIELDS = ("logit_scale", "logits_scaling", "mup_width_multiplier")


@dataclass
class VLMOutput(ModelOutput):
    """Output of `VLMForBlockDiffusion.forward`: ``loss`` (AR, if labels were given) and ``logits`` [B, L, V].

    For training rows with ``targets`` it is ``losses`` [S] instead.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    losses: torch.Tensor | None = None


class VLMForBlockDiffusion(PreTrainedModel):
    """Images, videos and text in; text out, block by block or token by token from the same weights.

    Submodules: ``vision_tower`` (pixels to features), ``projector`` (features to embeddings), ``language_model`` (a
    transformers causal language model, or a whole vision-language one in place of all three; unmodified).
    """

    config_class = VLMConfig
    generation_config_class = BlockGenerationConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("image", "video", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = None
    _tied_weights_keys = {}  # none of ours; given a dict, peft also asks the language model for its own

    def __init__(self, config: VLMConfig, language_model: PreTrainedModel | None = None):
        """Random weights; ``language_model``, of ``config.text_config``, stands in where there is one already."""
        super().__init__(config)
        for field in _UNSUPPORTED_LOGIT_FIELDS:
            if getattr(config.text_config, field, None) is not None:
                name = config.text_config.model_type
                raise ValueError(f"backbone {name!r} scales its logits by {field!r}, which is not supported")
        self.vision_tower = self.projector = None
        if config.vision_config:  # without one the model reads text only
            self.vision_tower = build_vision_encoder(VisionConfig.from_dict(config.vision_config))
            width = config.text_config.hidden_size
            self.projector = Projector(
                self.vision_tower.hidden_size,
                width,
                config.projector_hidden_size or width,
                self.vision_tower.grid,
                self.vision_tower.config.newline,
            )
        if language_model is None:
            auto = AutoModelForCausalLM if config.composite_config is None else AutoModelForImageTextToText
            own = config.composite_config or config.text_config
            language_model = auto.from_config(own, attn_implementation="sdpa")
        self.language_model = language_model
        self.post_init()

    @property
    def all_tied_weights_keys(self) -> dict[str, str]:
        return {f"language_model.{a}": f"language_model.{b}" for a, b in self._language_ties().items()}

    @all_tied_weights_keys.setter
    def all_tied_weights_keys(self, value: dict) -> None:
        """Set by `post_init`; ours always follow the language model's."""

    def _language_ties(self) -> dict[str, str]:
        return getattr(self.language_model, "all_tied_weights_keys", None) or {}

    def _init_weights(self, module: nn.Module) -> None:
        """Sub-models initialise themselves; only the projector is ours."""

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def encode_media(self, pixels: torch.Tensor | Pictures, pool: int = 1) -> torch.Tensor | list[torch.Tensor]:
        """Embeddings of images or frames: pixels [N, 3, S, S] to [N, T, D], pictures of any shapes to N times [T, D].

        ``pool`` averages squares of features; pictures have their own plans.
        """
        if self.config.composite_config is not None:
            raise ValueError("this model's pictures come as `media` from its own processor, not as pixels")
        if self.vision_tower is None:
            raise ValueError("this model has no vision encoder: it reads text only")
        if isinstance(pixels, Pictures):
            return self._encode_pictures(pixels.to(self.device, self.dtype))
        features = self.projector(self.vision_tower(pixels.to(self.dtype)))
        return pool_grid(features, self.vision_tower.grid, pool)

    def _encode_pictures(self, pictures: Pictures) -> list[torch.Tensor]:
        """The vision tower runs once for all views of one size."""
        alike: dict[tuple[int, int], list[int]] = {}
        for number, picture in enumerate(pictures):
            alike.setdefault(picture.plan.view, []).append(number)
        found: dict[int, torch.Tensor] = {}
        for numbers in alike.values():
            group = [pictures.items[number] for number in numbers]
            views = torch.cat([picture.views for picture in group])  # [V, 3, H, W]
            projected = self.projector.project(self.vision_tower(views))  # [V, h * w, D]
            shares = projected.split([picture.plan.views for picture in group])
            found |= {n: self.projector.arrange(part, p.plan) for n, p, part in zip(numbers, group, shares)}
        return [found[number] for number in range(len(pictures))]

    def embed(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor | Pictures | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        view: torch.Tensor | None = None,
        source: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Token embeddings [B, L, D] with media features at their placeholders, in reading order.

        Args:
            input_ids: [B, L].
            pixel_values, pixel_values_videos: [N, 3, S, S] of all images, of all video frames in the batch; images
                that keep their shapes come as `vision_encoders.Pictures`.
            view, source: of training rows [B, L]: a placeholder in a noisy view repeats its clean row's feature.

        Raises:
            ValueError: if the number of placeholders differs from the number of features; names both.
        """
        pixels = {"image": pixel_values, "video": pixel_values_videos}
        features = {kind: self.encode_media(p, self.pool(kind)) for kind, p in pixels.items() if p is not None}
        return self.place(input_ids, features, view, source)

    def pool(self, kind: str) -> int:
        """Side of the squares of features that become one: frames are coarser than images."""
        return self.config.frame_pool if kind == "video" else 1

    def place(
        self,
        input_ids: torch.Tensor,
        features: dict[str, torch.Tensor | list[torch.Tensor]],
        view: torch.Tensor | None = None,
        source: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """`embed` from features that are there: by ``image`` and ``video``, N times [T, D] in reading order."""
        embeds = self.get_input_embeddings()(input_ids)
        for kind, token_id in (("image", self.config.image_token_id), ("video", self.config.video_token_id)):
            placed = input_ids == token_id
            at = placed if view is None else placed & (view == 0)
            found = embeds.new_empty(0)
            if kind in features:
                found = features[kind]
                found = found.flatten(0, 1) if isinstance(found, torch.Tensor) else torch.cat(found)  # [sum of T, D]
            if int(at.sum()) != len(found):
                raise ValueError(f"{int(at.sum())} {kind} placeholders but {len(found)} {kind} features")
            if len(found):
                embeds = embeds.masked_scatter(at.unsqueeze(-1), found.to(embeds.dtype))
            batch_index, row = torch.nonzero(placed & ~at, as_tuple=True)
            if len(row):
                embeds = embeds.index_put((batch_index, row), embeds[batch_index, source[batch_index, row]])
        return embeds

    def decode(
        self,
        embeds: torch.Tensor,
        rows: Rows,
        cache: BlockCache | None = None,
        parts: list[Part | None] | None = None,
        beside: Beside | None = None,
        slots: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """One forward pass of the decoder over ``rows``; returns hidden states [B, L, D] before the output embedding.

        Args:
            embeds: [B, L, D].
            rows: fields [B, L].
            cache: its committed slots are keys too; the new rows are placed behind them but not committed.
            parts: how open blocks attend in two parts, see `vlm.flash.attending`; None means as usual.
            beside: what a decoder that sees pictures itself is told of them.
            slots: where in the cache the rows go, see `BlockCache.place`.
        """
        keys = cache.place(rows, slots) if cache is not None else rows
        text_config = self.config.text_config
        window = getattr(text_config, "sliding_window", None)
        everywhere = "full_attention" if window is None else "sliding_attention"  # Mistral: no types, one window
        layer_types = getattr(text_config, "layer_types", None) or [everywhere]
        traits = self.config.traits
        masks = masks_for(layer_types, rows, keys, traits.context_attention, window, traits.block_attention)
        beside = beside or Beside()
        if beside.groups is not None:
            masks = open_pictures(masks, beside.groups, rows, keys, None if cache is None else cache.slots, window)
        decoder = self.language_model.get_decoder()
        with attending(decoder, parts) as given:
            return decoder(
                inputs_embeds=embeds,
                attention_mask=masks if len(masks) > 1 else next(iter(masks.values())),
                past_key_values=cache,
                use_cache=cache is not None,
                **{"position_ids": rows.position, **beside.arguments(), **given},
            ).last_hidden_state

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [..., V] of hidden states [..., D], with the backbone's soft-cap where it has one."""
        logits = self.get_output_embeddings()(hidden)
        cap = getattr(self.config.text_config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | Pictures | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        rows: Rows | None = None,
        source: torch.Tensor | None = None,
        logits_at: torch.Tensor | None = None,
        targets: torch.Tensor | None = None,
        media: dict[str, torch.Tensor] | None = None,
        **kwargs,
    ) -> VLMOutput:
        """Logits of a clean stream, or of training rows.

        Args:
            input_ids: [B, L], media placeholders expanded.
            attention_mask: [B, L], 0 at padding (either side); for a clean stream.
            pixel_values, pixel_values_videos: all images and all video frames, in reading order; see `embed`.
            labels: [B, L], -100 where unsupervised; shifted here, for a next-token loss.
            rows, source: of a training batch, see `vlm.layout.Layout`; without them the batch is one clean stream.
            logits_at: flat indices into B * L; logits are computed there only, [S, V]; None: everywhere, [B, L, V].
            targets: int64 [S], what stands at ``logits_at``: the cross-entropies are the output, and no logits.
            media: for a decoder that sees pictures itself, what its processor made of all of them.
        """
        beside, view = None, None if rows is None else rows.view
        if rows is None:
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            rows = clean_rows(mask, self.config.traits)
        if media:
            features, deep = encode(self, media)
            embeds = self.place(input_ids, features, view, source)
            beside = beside_rows(self, input_ids, rows, media, deep)
        else:
            embeds = self.embed(input_ids, pixel_values, pixel_values_videos, view, source)
        hidden = self.decode(embeds, rows, beside=beside)
        read = hidden if logits_at is None else hidden.flatten(0, 1)[logits_at]
        if targets is not None:
            return VLMOutput(losses=cross_entropies(self.head, read, targets, self.config.text_config.vocab_size))
        logits = self.head(read)
        loss = None
        if labels is not None:
            if self.config.traits.context_attention != "causal" or logits_at is not None:
                raise ValueError("labels need causal context and logits at every row: others see what they predict")
            loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        return VLMOutput(loss=loss, logits=logits)

    generate = generate

    def can_generate(self) -> bool:
        return True

    def adjust_generation_fn(
        self, generation_config, from_auto_class, from_pipeline, pretrained_model_name_or_path, *args, **kwargs
    ) -> None:
        """Called by ``from_pretrained``: read the checkpoint's ``generation_config.json``."""
        if generation_config is not None:
            self.generation_config = generation_config
        elif pretrained_model_name_or_path is not None:
            self.generation_config = BlockGenerationConfig.from_pretrained(pretrained_model_name_or_path)


def clean_rows(attention_mask: torch.Tensor, traits) -> Rows:
    """Rows of a batch of clean streams, [B, L], on the block grid that starts at each sequence's first token."""
    position = (attention_mask.cumsum(-1) - 1).clamp(min=0)
    block_start = position // traits.block_size * traits.block_size
    segment = torch.where(attention_mask.bool(), 0, PADDING)
    return Rows(position, segment, torch.zeros_like(position), block_start, block_start + traits.block_size)

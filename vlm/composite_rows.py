"""Where the pictures of a composite decoder stand among the rows of a forward pass, and what it is told of them there.

A row's place in the stream is enough to look everything up: its rotary positions on three axes, the DeepStack features
that are added to it, the picture whose tokens it sees in both directions. Streams are prompts, or the clean streams of
training rows; what follows a stream, or repeats it in a noisy view, is placed by the same lookup.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from vlm.attention import PADDING, Rows
from vlm.composite import TIMES, Media, encode, family_of


@dataclass(eq=False)
class Stream:
    """Where the pictures of one clean stream stand.

    Attributes:
        visual: bool [P], where features stand.
        axes: rotary positions [3, P]; None with one axis.
        shift: by how much the positions behind it differ from those in the stream.
        deep: DeepStack features, K times [N, D] in reading order; empty where there are none.
    """

    visual: torch.Tensor
    axes: torch.Tensor | None
    shift: int
    deep: list[torch.Tensor] = field(default_factory=list)


@dataclass
class Beside:
    """What a decoder is told of rows [B, L] beside their embeddings and their places in the stream.

    Attributes:
        axes: rotary positions [3, B, L]; None takes those of the stream.
        visual: bool [B, L], the rows to which ``deep``, K times [N, D], is added behind the first K layers.
        groups: int64 [B, L], rows of one picture that see each other; -1 for all others.
    """

    axes: torch.Tensor | None = None
    visual: torch.Tensor | None = None
    deep: list[torch.Tensor] = field(default_factory=list)
    groups: torch.Tensor | None = None

    def arguments(self) -> dict:
        """Of the text model's forward."""
        found = {} if self.axes is None else {"position_ids": self.axes}
        if self.deep:
            found |= {"visual_pos_masks": self.visual, "deepstack_visual_embeds": self.deep}
        return found


def rotary(model, ids: torch.Tensor, inputs: dict, attention_mask: torch.Tensor | None = None):
    """Positions [3, B, L] of streams with pictures and the shift behind each, int64 [B]; None, 0 with one axis."""
    if not family_of(model.config).mrope:
        return None, torch.zeros(len(ids), dtype=torch.long)
    kinds = (ids == model.config.image_token_id).int() + 2 * (ids == model.config.video_token_id).int()
    names = ("image_grid_thw", "video_grid_thw", TIMES)
    given = {name: inputs[name].to(ids.device) for name in names if name in inputs}
    axes, shift = model.language_model.model.get_rope_index(ids, kinds, attention_mask=attention_mask, **given)
    return axes, shift.flatten()


def is_visual(config, ids: torch.Tensor) -> torch.Tensor:
    """Where features stand, bool of the shape of ``ids``."""
    return (ids == config.image_token_id) | (ids == config.video_token_id)


def groups_of(visual: torch.Tensor) -> torch.Tensor:
    """Number of the run of features that a place [..., L] belongs to, -1 outside."""
    begins = visual & ~torch.nn.functional.pad(visual, (1, 0))[..., :-1]
    return torch.where(visual, begins.long().cumsum(-1) - 1, -1)


def picture_borders(config, tokens: list[int], borders: np.ndarray) -> np.ndarray:
    """``borders`` [n], one past the last position each token's KV has seen, where a picture sees all of itself."""
    family = family_of(config)
    if family is None or not family.bidirectional:
        return borders
    groups = groups_of(torch.tensor(tokens) == config.image_token_id).numpy()
    ends = {int(group): int(np.flatnonzero(groups == group)[-1]) + 1 for group in np.unique(groups[groups >= 0])}
    return np.array([max(int(border), ends.get(int(group), 0)) for border, group in zip(borders, groups)])


def in_order(deep: dict[str, list], ids: torch.Tensor, config) -> list[torch.Tensor]:
    """DeepStack features of images and videos, K times [N, D], merged in reading order of ``ids``."""
    kinds = [kind for kind, layers in deep.items() if layers]
    if len(kinds) < 2:
        return deep[kinds[0]] if kinds else []
    image = (ids == config.image_token_id)[is_visual(config, ids)]  # [N]
    merged = []
    for of_images, of_videos in zip(deep["image"], deep["video"]):
        both = of_images.new_empty(len(image), of_images.shape[-1])
        both[image], both[~image] = of_images, of_videos
        merged.append(both)
    return merged


def streams_of(
    model, streams: list[torch.Tensor], inputs: dict[str, torch.Tensor], deep: dict[str, list]
) -> list[Stream]:
    """Where the pictures of clean streams [P] of any lengths stand; ``inputs`` and ``deep`` are of all in order."""
    ids = pad_sequence(streams, batch_first=True)  # [S, P]
    mask = pad_sequence([torch.ones_like(stream) for stream in streams], batch_first=True)
    axes, shifts = rotary(model, ids, inputs, mask)
    visual = [is_visual(model.config, stream) for stream in streams]
    counts = [int(seen.sum()) for seen in visual]
    layers = [layer.split(counts) for layer in in_order(deep, torch.cat(streams), model.config)]
    return [
        Stream(seen, None if axes is None else axes[:, n, : len(seen)], int(shifts[n]), [part[n] for part in layers])
        for n, seen in enumerate(visual)
    ]


def read_prompt(model, ids: torch.Tensor, media: Media) -> tuple[torch.Tensor, Stream]:
    """Embeddings [P, D] of a prompt [P] with its pictures, and where these stand.

    Raises:
        ValueError: placeholders and features differ in number.
    """
    features, deep = encode(model, media.inputs)
    embeds = model.place(ids.unsqueeze(0), features)[0]
    return embeds, streams_of(model, [ids], media.inputs, deep)[0]


def known_prompt(model, ids: torch.Tensor, media: Media) -> Stream:
    """Where the pictures of a prompt [P] stand whose KV is there already, so that their features are not needed."""
    return streams_of(model, [ids], media.inputs, {})[0]


def beside_prompts(model, prompts: list[tuple[Stream | None, int]], rows: Rows) -> Beside | None:
    """What the decoder is told of ``rows`` [B, L], which hold prompts and what follows them; None if nothing.

    Args:
        prompts: of every batch row: where its pictures stand, None without; and at which position the prompt starts.
    """
    placed = [
        (row, rows.segment[row] != PADDING, start, stream)
        for row, (stream, start) in enumerate(prompts)
        if stream is not None
    ]
    return _beside(model, placed, rows) if placed else None


def beside_rows(model, ids: torch.Tensor, rows: Rows, inputs: dict[str, torch.Tensor], deep: dict) -> Beside:
    """The same of streams [B, L], clean ones or training rows; ``inputs`` and ``deep`` are of all pictures in order.

    Raises:
        ValueError: rows without a clean stream (further copies under full attention).
    """
    at = [(row, segment) for row in range(len(ids)) for segment in rows.segment[row].unique().tolist()]
    chosen = [(row, rows.segment[row] == segment) for row, segment in at if segment != PADDING]
    clean = [ids[row, here & (rows.view[row] == 0)] for row, here in chosen]
    if not all(len(stream) for stream in clean):
        raise ValueError("pictures of a further copy of a stream: a model that sees them itself has one view there")
    streams = streams_of(model, clean, inputs, deep)
    return _beside(model, [(*place, 0, stream) for place, stream in zip(chosen, streams)], rows)


def _beside(model, placed: list[tuple[int, torch.Tensor, int, Stream]], rows: Rows) -> Beside:
    """From streams: their batch row, which of its rows [L] are theirs, and the position at which they start."""
    family = family_of(model.config)
    axes = rows.position.expand(3, *rows.shape).clone() if family.mrope else None  # [3, B, L]
    visual = torch.zeros_like(rows.position, dtype=torch.bool)  # [B, L]
    groups, deep, pictures = torch.full_like(rows.position, -1), [], 0
    for row, theirs, start, stream in placed:
        at = rows.position[row] - start  # [L]
        inside = theirs & (at >= 0) & (at < len(stream.visual))
        place = at.clamp(0, len(stream.visual) - 1)
        shows = inside & stream.visual[place]
        visual[row] |= shows
        if axes is not None:
            found = torch.where(inside, stream.axes[:, place], rows.position[row] + stream.shift)
            axes[:, row] = torch.where(theirs, found, axes[:, row])
        if family.bidirectional:
            own = groups_of(stream.visual)
            groups[row] = torch.where(shows & (rows.view[row] == 0), own[place] + pictures, groups[row])
            pictures += int(own.max()) + 1
        if stream.deep:
            number = (stream.visual.long().cumsum(0) - 1)[place[shows]]  # which feature each row shows
            deep.append([layer[number] for layer in stream.deep])
    layers = [torch.cat(parts) for parts in zip(*deep)] if visual.any() else []
    return Beside(axes, visual, layers, groups if family.bidirectional else None)


def open_pictures(masks: dict, groups: torch.Tensor, rows: Rows, keys: Rows, slots, window: int | None) -> dict:
    """``masks`` by layer type, bool [B, 1, L, W], with tokens of one picture seeing each other.

    Args:
        groups: int64 [B, L], see `Beside`. A picture is always fed whole.
        slots: where the rows stand among the keys, int64 [B, L]; None: they are the keys.
    """
    seen = groups
    if slots is not None:
        seen = torch.full_like(keys.position, -1)  # [B, W]
        seen.scatter_(1, slots, groups)
    same = (groups.unsqueeze(-1) == seen.unsqueeze(-2)) & (groups >= 0).unsqueeze(-1)  # [B, L, W]
    near = same if window is None else same & (rows.position.unsqueeze(-1) - keys.position.unsqueeze(-2) < window)
    return {name: mask | (near if name == "sliding_attention" else same).unsqueeze(1) for name, mask in masks.items()}

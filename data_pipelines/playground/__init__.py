"""The playground: procedural visual tasks, infinite and deterministic by (family, split, seed, index)."""

from data_pipelines.playground import (
    attributes,
    charts,
    counting,
    describe,
    documents,
    lists,
    multi_image,
    objects,
    reading,
    relations,
    scene_chat,
    scene_json,
    video,
)
from data_pipelines.playground.base import Family, Item, Split, Turn, stream

# What evaluation asks about, in the order of its tables.
EVALUATED: dict[str, Family] = {
    "attributes": attributes.make,
    "counting": counting.make,
    "relations": relations.make,
    "reading": reading.make,
    "charts": charts.make,
    "documents": documents.make,
    "objects": objects.make,
    "describe": describe.make,
    "json": scene_json.make,
    "multi_image": multi_image.make,
    "video": video.make,
}
# Beside those: chats about a scene, whose turns are of those families, and what the suite parallel_bench asks about.
FAMILIES: dict[str, Family] = {**EVALUATED, "scene_chat": scene_chat.make, "lists": lists.make}


def item(family: str, split: Split, seed: int, index: int, n_turns: int = 1, max_side: int = 640) -> Item:
    """One item: the same arguments give the same pixels and words."""
    return FAMILIES[family](stream(family, split, seed, index), split, n_turns, max_side)


__all__ = ["EVALUATED", "FAMILIES", "Item", "Turn", "item", "stream"]

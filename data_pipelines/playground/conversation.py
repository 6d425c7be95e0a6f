"""A playground item as the chat that training reads."""

from collections.abc import Collection

from data_pipelines.playground.base import Item
from data_pipelines.record import Message, image_part, text_part, video_part


def chat(item: Item, spelled: Collection[str] = ()) -> tuple[list[Message], list]:
    """One conversation: the item's media in the first question, then every turn. Also the media list.

    Answers of the families ``spelled`` are marked to be learnt a character a token.
    """
    media = item.media if item.kind == "image" else [item.media]
    part = image_part if item.kind == "image" else video_part
    messages: list[Message] = []
    for number, turn in enumerate(item.turns):
        parts = [part(m) for m in media] if number == 0 else []
        messages.append({"role": "user", "content": [*parts, text_part(turn.question)]})
        mark = {"spelled": True} if turn.family in spelled else {}
        messages.append({"role": "assistant", "content": [text_part(turn.answer)], **mark})
    return messages, media

"""Open everything a conversation shows, in reading order."""

from PIL import Image

from data_pipelines.images import load_image
from data_pipelines.record import Message, media_parts
from data_pipelines.video import load_video


def open_media(messages: list[Message], frames: int = 16) -> list[Image.Image | list[Image.Image]]:
    """An RGB image for every image part, a list of at most ``frames`` frames for every video part.

    Raises:
        DataError: one line naming the file that cannot be used.
    """
    return [
        load_image(part["image"]) if part["type"] == "image" else load_video(part["video"], frames)
        for part in media_parts(messages)
    ]

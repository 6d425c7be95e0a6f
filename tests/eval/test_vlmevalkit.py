"""The adapter for VLMEvalKit, with a stand-in for the two of its modules that it writes to."""

import sys
from types import ModuleType

import pytest
import torch
from PIL import Image

from eval import vlmevalkit
from tests.vlm.tiny import tiny_model
from vlm.answering import answer_batch, build_request, settings


@pytest.fixture
def kit(monkeypatch):
    """``vlmeval.config.supported_VLM`` and ``vlmeval.vlm.base.BaseModel`` as VLMEvalKit has them."""

    class BaseModel:
        def __init__(self):
            self.dump_image_func = None

        def generate(self, message, dataset=None):
            return self.generate_inner(message, dataset)

    modules = {name: ModuleType(name) for name in ("vlmeval", "vlmeval.config", "vlmeval.vlm", "vlmeval.vlm.base")}
    modules["vlmeval.config"].supported_VLM = {}
    modules["vlmeval.vlm.base"].BaseModel = BaseModel
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return modules["vlmeval.config"].supported_VLM, BaseModel


def test_a_registered_checkpoint_answers_as_the_engine_does(kit, tmp_path):
    table, base = kit
    model, processor = tiny_model(dtype=torch.float32)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    paths = [tmp_path / f"{color}.png" for color in ("red", "blue")]
    for path in paths:
        Image.new("RGB", (32, 32), path.stem).save(path)
    vlmevalkit.register("mine", str(tmp_path / "model"), max_new_tokens=6)
    made = table["mine"]()
    assert isinstance(made, base)
    parts = [{"type": "image", "value": str(path)} for path in paths] + [{"type": "text", "value": "What color?"}]
    content = [{"type": "image", "image": str(path)} for path in paths] + [{"type": "text", "text": "What color?"}]
    images = [Image.open(path) for path in paths]
    request = build_request(processor, [{"role": "user", "content": content}], images)
    [answer] = answer_batch(model, processor, [request], settings(model, max_new_tokens=6))
    assert made.generate(parts, dataset="MMBench") == answer.answer


def test_parts_of_another_kind_and_a_missing_kit_are_said():
    with pytest.raises(ValueError, match="a part of type 'audio' is none of image, video, text"):
        vlmevalkit.messages_of([{"type": "audio", "value": "a.wav"}])
    if "vlmeval" not in sys.modules:
        with pytest.raises(ValueError, match="VLMEvalKit is not installed"):
            vlmevalkit.register("mine")

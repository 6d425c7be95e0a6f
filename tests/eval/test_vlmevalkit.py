"""The adapter for VLMEvalKit, with a stand-in for the two of its modules that it writes to, and for its run.py."""

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


SCRIPT = """
import sys
from pathlib import Path
from vlmeval.config import supported_VLM
parts = [{"type": "text", "value": "What color?"}]
Path(__file__).with_name("said").write_text(repr(sys.argv[1:]) + supported_VLM["mine"]().generate(parts))
"""


def test_its_own_script_runs_with_a_checkpoint_in_its_table(kit, tmp_path, monkeypatch, capsys):
    """What is NAME=CHECKPOINT is entered and told as NAME; everything else reaches the script as it stands."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", [*sys.argv])
    model, processor = tiny_model(dtype=torch.float32)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "model")
    (tmp_path / "run.py").write_text(SCRIPT)
    given = ["--data", "A", "--judge-args=x=1", "--model", f"mine={tmp_path / 'model'}"]
    assert vlmevalkit.main([str(tmp_path / "run.py"), *given]) == 0
    request = build_request(processor, [{"role": "user", "content": [{"type": "text", "text": "What color?"}]}], [])
    [answer] = answer_batch(model, processor, [request], settings(model))
    assert (tmp_path / "said").read_text() == repr([*given[:-1], "mine"]) + answer.answer
    capsys.readouterr()
    for script in ([], [str(tmp_path / "none.py")]):
        assert vlmevalkit.main(script) == 2
        assert "give the run.py of a checked-out VLMEvalKit first" in (err := capsys.readouterr().err)
        assert err.count("\n") == 1


def test_parts_of_another_kind_and_a_missing_kit_are_said():
    with pytest.raises(ValueError, match="a part of type 'audio' is none of image, video, text"):
        vlmevalkit.messages_of([{"type": "audio", "value": "a.wav"}])
    if "vlmeval" not in sys.modules:
        with pytest.raises(ValueError, match="VLMEvalKit is not installed"):
            vlmevalkit.register("mine")

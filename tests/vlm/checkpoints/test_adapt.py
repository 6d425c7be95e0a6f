"""Other projects' directories train as they are, by a recipe that ships and the command of ``docs/checkpoints.md``."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import infer
import train
from tests.vlm.checkpoints.sources import llada, sdar
from tests.vlm.checkpoints.wholes import BLOCK, FAMILIES
from vlm.checkpoints.load import load

RECIPE = Path(__file__).parents[3] / "configs" / "adapt_lm.yaml"
QUICK = ["--max_steps", "1", "--save_steps", "1", "--data.workers", "0", "--optim.warmup_steps", "0"]
QUICK += ["--optim.decay_steps", "0", "--optim.lr", "0.01", "--report_to", "[]", "--sample_answers", "0"]


def chats(path: Path, pictures: bool) -> str:
    """Two conversations as a data source."""
    Image.new("RGB", (24, 16), "red").save(path / "a.png")
    seen = [{"type": "image", "image": "a.png"}] if pictures else []
    question = {"role": "user", "content": [*seen, {"type": "text", "text": "What color is it?"}]}
    answers = [{"role": "assistant", "content": f"It is red, number {number}."} for number in range(2)]
    lines = [json.dumps({"messages": [question, answer]}) for answer in answers]
    (path / "chats.jsonl").write_text("\n".join(lines))
    return f"[{{path: {path / 'chats.jsonl'}}}]"


QUICKEST = ("sdar", "fast_dvlm")
OTHERS = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("llada", *FAMILIES) if kind not in QUICKEST]


@pytest.mark.parametrize("kind", [*QUICKEST, *OTHERS])
def test_what_loads_trains(kind, tmp_path, capsys):
    {"sdar": sdar, "llada": llada, **FAMILIES}[kind](tmp_path / "theirs")
    whole, source = kind in FAMILIES, str(tmp_path / "theirs")
    before, _ = load(source, device="cpu")
    size = before.config.traits.block_size if kind in ("fast_dvlm", "bard_vl", "llada") else BLOCK
    given = ["--config", str(RECIPE), "--init_from", source, "--data.sources", chats(tmp_path, whole)]
    given += ["--data.block_sizes", f"{{{size}: 1.0}}", "--output_dir", str(tmp_path / "run"), *QUICK]
    given += [] if kind == "fast_dvlm" else ["--objective.ar_weight", "0"]
    assert train.main(given) == 0, capsys.readouterr().err
    after, _ = load(str(tmp_path / "run" / "final"), device="cpu")
    old, new = before.language_model.state_dict(), after.language_model.state_dict()
    assert old.keys() == new.keys() and all(torch.isfinite(tensor).all() for tensor in new.values())
    assert any(not torch.equal(old[name], new[name]) for name in old if "down_proj" in name)
    picture = ["--image", str(tmp_path / "a.png")] if whole else []
    asked = ["--model", str(tmp_path / "run" / "final"), *picture, "--prompt", "What color is it?"]
    assert infer.main([*asked, "--max-new-tokens", "2"]) == 0

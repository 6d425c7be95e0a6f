"""What leaves in DiffusionVL's layout is what came in: the same tensors under the same names, and it loads again."""

import json

import torch
from safetensors.torch import load_file

import vlm.checkpoints.export_diffusionvl as exporting
from tests.vlm.checkpoints.composites import request_of
from tests.vlm.checkpoints.wholes import made
from vlm.checkpoints.convert import convert
from vlm.checkpoints.load import load
from vlm.export import main


def test_diffusionvl_leaves_as_it_came(tmp_path, tmp_path_factory, monkeypatch):
    _, model, processor, path = made("diffusionvl_qwenvl", tmp_path_factory)
    convert(str(path), str(tmp_path / "ours"))
    mask = model.config.traits.mask_token_id
    monkeypatch.setattr(exporting, "MASK", mask)
    assert main([str(tmp_path / "ours"), str(tmp_path / "out"), "--to", "diffusionvl"]) == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (path, tmp_path / "out"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    old, new = (json.loads((folder / "config.json").read_text()) for folder in (path, tmp_path / "out"))
    told = ("model_type", "hidden_size", "num_hidden_layers", "rope_theta", "bd3lm_block_size", "video_token_id",
            "enable_bd3lm", "image_token_id", "architectures", "tie_word_embeddings")  # fmt: skip
    assert {name: new[name] for name in told} == {name: old[name] for name in told}
    (tmp_path / "out" / "config.json").write_text(json.dumps({**new, "mask_token_id": mask}))  # 151671 in a real one
    again, its_processor = load(str(tmp_path / "out"), dtype=torch.float64, device="cpu")
    assert again.config.diffusion == model.config.diffusion
    request, same = request_of(processor, ("image",)), request_of(its_processor, ("image",))
    assert torch.equal(request.input_ids, same.input_ids)
    with torch.no_grad():
        given = {"input_ids": request.input_ids[None]}
        found = again(**given, media=same.media.inputs).logits
        assert torch.equal(found, model(**given, media=request.media.inputs).logits)


def test_what_its_code_cannot_run_is_refused(tmp_path, tmp_path_factory, capsys):
    says = {"diffusionvl_qwenvl": "row 151671", "fast_dvlm": "context_attention", "bard_vl": "not 'qwen3_vl'"}
    for kind, reason in says.items():
        path = made(kind, tmp_path_factory).path
        assert main([str(path), str(tmp_path / "out"), "--to", "diffusionvl"]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error:") and reason in error and not (tmp_path / "out").exists()

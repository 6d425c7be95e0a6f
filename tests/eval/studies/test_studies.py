"""Both studies end to end, at two steps on a tiny text model: every arm trained, measured, judged, and not redone."""

import json
import shutil

import pytest

from eval.studies import gradients, training
from eval.studies.__main__ import main
from eval.studies.frame import Result
from eval.studies.nbdiff import STARTS, cells
from eval.studies.nbdiff import claims as nbdiff_claims
from eval.studies.noise import ARMS
from eval.studies.noise import claims as noise_claims
from vlm.training import heldout

TINY = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8}


@pytest.fixture
def tiny(monkeypatch):
    """A text model and batches that cost next to nothing; the vision tower is the embedded one."""
    monkeypatch.setattr(training, "TEXT", {**training.TEXT, **TINY})
    for module, name, value in (
        *((training, name, value) for name, value in (("ROWS", 256), ("WINDOW", 2), ("MAX_NEW_TOKENS", 8))),
        *((gradients, name, 2) for name in ("DRAWS", "WINDOW")),
        (heldout, "SAMPLES", 1),
    ):
        monkeypatch.setattr(module, name, value)


def command(study: str, output, **options) -> list[str]:
    given = {"steps": 2, "seeds": 1, "limit": 1, "output": output, **options}
    return [study, *(part for name, value in given.items() for part in (f"--{name}", str(value)))]


def results(arms: dict[str, list[dict]]) -> list[Result]:
    return [Result(arm, seed, found) for arm, all_found in arms.items() for seed, found in enumerate(all_found)]


@pytest.mark.slow
@pytest.mark.parametrize("study, arms, verdicts", [("noise", list(ARMS), 14), ("nbdiff", [], 6)])
def test_a_study_runs_from_one_command_and_is_not_redone(study, arms, verdicts, tiny, tmp_path, monkeypatch, capsys):
    arms = arms or list(cells(training.base(2, 8)))
    assert main(command(study, tmp_path)) == 0
    text = capsys.readouterr().out
    told = json.loads((tmp_path / "results.json").read_text())
    assert [line["arm"] for line in told["results"]] == arms
    assert len(told["claims"]) == verdicts and text.count("| not distinguishable |") == verdicts  # of one seed
    assert {line["nelbo"] > 0 and 0 <= line["score"] <= 100 for line in told["results"]} == {True}
    assert all((tmp_path / f"{name}.png").exists() for name in ("held-out-NELBO", "score"))

    def refused(*_):
        raise AssertionError("a finished arm was measured again")

    monkeypatch.setattr(f"eval.studies.{study}.trained", refused)
    assert main(command(study, tmp_path)) == 0
    assert capsys.readouterr().out == text
    assert main(command(study, tmp_path, steps=3)) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path} holds another study: its recipe differs")
    shutil.rmtree(tmp_path)  # the models take 200 MB


def test_the_six_cells_are_the_legal_ones():
    """Next-token loss where context is causal, growth everywhere, all else equal."""
    found = cells(training.base(10, 8))
    told = set()
    for cell in found.values():
        context, grows = (
            STARTS[cell["init_from"]]["context_attention"],
            "data" in cell and cell["data"].growth is not None,
        )
        told.add((context, cell["objective"].ar_weight > 0, grows))
    legal = {("causal", ar, grows) for ar in (False, True) for grows in (False, True)}
    assert told == legal | {("block_causal", False, grows) for grows in (False, True)} and len(found) == 6


def test_each_arm_of_the_noise_study_adds_one_thing():
    plain, abns, emrs, pbnc, clipped = ARMS.values()
    assert (plain["noise"].level, abns["noise"].level) == ("sequence", "block")
    assert plain["objective"] == abns["objective"] and abns["objective"].weighting == "nelbo"
    assert abns["noise"] == emrs["noise"] and emrs["objective"].weighting == "emrs"
    assert emrs["objective"] == pbnc["objective"] == clipped["objective"]
    assert pbnc["noise"].schedule.at(0.0) == (1.0, 1.0) and clipped["noise"].schedule.low == 0.45


def test_verdicts_on_noise_follow_the_figures():
    """A made-up study in which every published direction holds, and its mirror image."""
    rank = {"plain": 0, "+ABNS": 1, "+EMRS": 2, "clipped": 2.5, "+PBNC": 3}
    variances = ("loss variance", "gradient variance", "gradient noise")

    def found(strength: float, seed: int) -> dict:
        quieter = dict.fromkeys(variances, 2.0**-strength + 0.001 * seed)
        return {"score": 50 + 5 * strength + seed, "nelbo": 2 - 0.1 * strength, **quieter}

    def made(sign: int) -> list[Result]:
        return results({arm: [found(sign * r, seed) for seed in range(3)] for arm, r in rank.items()})

    assert {c.verdict for c in noise_claims(made(1))} == {"confirmed"}
    assert {c.verdict for c in noise_claims(made(-1))} == {"contradicted"}


def test_verdicts_on_nbdiff_follow_the_figures():
    score = {"block-causal": 30, "causal": 48, "causal+ar": 52, "causal+ar+growth": 50}
    found = results({arm: [{"score": v + s, "nelbo": 100 - v} for s in range(3)] for arm, v in score.items()})
    assert [c.verdict for c in nbdiff_claims(found)] == ["confirmed", "confirmed", "contradicted"] * 2


@pytest.mark.parametrize("name", ["steps", "seeds", "limit"])
def test_a_number_below_one_is_refused(name, tmp_path, capsys):
    assert main(command("noise", tmp_path / "out", **{name: 0})) == 2
    assert capsys.readouterr().err == f"error: --{name} 0 must be at least 1\n"
    assert not (tmp_path / "out").exists()

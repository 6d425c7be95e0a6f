"""Published decoders by name: which slots of the loop each fills, with what values, and where ours differs.

A table and nothing more: the rules are in the strategies' own files. A preset sets every setting that decides how a
block is decoded; what is given beside its name prevails. What a checkpoint cannot run is refused when the strategy is
built, by a sentence that names what is needed and what is there.
"""

from dataclasses import dataclass, field
from typing import Any

from vlm.config import DiffusionTraits
from vlm.generation.config import BlockGenerationConfig


@dataclass(frozen=True)
class Preset:
    """One decoder.

    Attributes:
        source: paper or code.
        rule: what it does, in a line.
        differs: between paper, released code and ours; empty if nothing does.
        needs: of the checkpoint, beyond what every block decoder needs; empty if nothing.
        policy, policy_args, threshold, denoising_steps, slots, mode: settings of `BlockGenerationConfig`.
        block_size: at most; the largest trained size up to it is taken. None: the checkpoint's default.
    """

    source: str
    rule: str
    policy: str
    differs: str = ""
    needs: str = ""
    policy_args: dict[str, Any] | None = None
    threshold: float = 0.9
    denoising_steps: int | None = None
    slots: dict[str, dict[str, Any]] = field(default_factory=dict)
    mode: str = "block"
    block_size: int | None = None


PRESETS: dict[str, Preset] = {
    "sdar-static": Preset(
        "SDAR, arXiv 2510.06303",
        "the most confident slots, an even quota a step",
        "static",
        differs="the script's quota may overwrite filled slots; ours never does. Published: block 4, 4 steps",
    ),
    "sdar-dynamic": Preset(
        "SDAR, arXiv 2510.06303",
        "every slot above the threshold, at least the best",
        "threshold",
        differs="the script compares with >, so does this; its floor is the static quota, 1 at its 4 steps in 4 slots",
        policy_args={"strict": True},
        threshold=0.85,
    ),
    "sdar-sequential": Preset("SDAR, arXiv 2510.06303", "the leftmost slots", "sequential"),
    "fast-dllm": Preset(
        "Fast-dLLM, arXiv 2505.22618",
        "every slot that reaches the threshold, at least the best",
        "threshold",
        differs="its prefix cache is the exact one of closed blocks here, and needs no refresh",
    ),
    "fast-dllm-factor": Preset(
        "Fast-dLLM, arXiv 2505.22618",
        "the largest n with (n + 1)(1 - c_n) < f",
        "factor",
        differs="the paper's formula: the released code also commits a lone last candidate that fails",
    ),
    "entropy-bounded": Preset(
        "JetEngine, after EB-Sampler, arXiv 2505.24857",
        "the most certain slots while their entropies sum to less than a bound",
        "entropy",
        differs="JetEngine's form: EB-Sampler leaves the largest entropy out of the sum",
    ),
    "bacd": Preset(
        "TDAR, arXiv 2602.09555",
        "a threshold that follows the block's mean confidence within bounds",
        "bacd",
        differs="the released code keeps a block's history by batch row; here it belongs to the request",
    ),
    "tccf": Preset(
        "TDAR, arXiv 2602.09555",
        "bacd; large blocks up to </think>, then small ones",
        "bacd",
        differs="the engine throws away what stands behind the marker in its block; here that block is finished",
        needs="a token </think> (or tccf.marker), and tccf.small among the trained block sizes",
        slots={"tccf": {}},
        block_size=16,
    ),
    "localleap": Preset(
        "LocalLeap, arXiv 2510.07081", "a lower threshold beside slots that reach the higher one", "localleap"
    ),
    "wedlm": Preset(
        "WeDLM, arXiv 2512.22737",
        "entropy plus a penalty for distance below a bound: its selector, in fixed blocks",
        "wedlm",
        differs="values of the released engine; the paper recommends tau 0.3 to 0.6",
    ),
    "wedlm-stream": Preset(
        "WeDLM, arXiv 2512.22737",
        "its selector in a window that slides as soon as its front is filled",
        "wedlm",
        differs="its models attend causally within the window; ours see each other there, as trained",
        needs="causal context, shift 0, blocks off the grid",
        slots={"streaming": {}},
        block_size=16,
    ),
    "cad": Preset(
        "CD4LM, arXiv 2601.02236",
        "as many slots as are sure, between two counts; end tokens wait for 30 % of the answer",
        "cad",
        differs="values of the evaluation scripts; 30 % of max_new_tokens: short answers want eos_gate.share=0",
        threshold=0.95,
        slots={"eos_gate": {}},
    ),
    "learn2pd": Preset(
        "Learn2PD and EoTP, arXiv 2509.25188",
        "slots that a learned filter accepts, and an even quota; nothing behind an end token",
        "learn2pd",
        differs="the filter sees filled slots as they were committed; rows behind an end token stay in the block",
        needs="a filter of python -m vlm.training.fit_filter, as policy argument filter",
        slots={"eotp": {}},
    ),
    "ete": Preset(
        "From Bits to Rounds, arXiv 2511.21103 (reconstructed)",
        "threshold; where few are sure, also the least certain slot near the front",
        "explore",
        differs="reconstructed from the abstract: no thresholds or code are public; one candidate, within the block",
    ),
    "eoser": Preset(
        "arXiv 2509.23924",
        "static, with end tokens ranked lower while the block is young",
        "static",
        differs="the factor rises over the block, not the answer; in the released code it never gets to 1",
        slots={"eoser": {}},
    ),
    "ass": Preset(
        "arXiv 2509.23924",
        "1, 2, 4, ... slots a step",
        "doubling",
        differs="starts again at 1 in every block; the paper's blocked form does so in the first only",
    ),
    "eoser-ass": Preset(
        "arXiv 2509.23924",
        "1, 2, 4, ... slots a step, end tokens ranked lower at first",
        "doubling",
        differs="as eoser and ass",
        slots={"eoser": {"lowest": 0.01, "doubling": True}},
    ),
    "prophet": Preset(
        "Prophet, arXiv 2508.19982",
        "static; all of the block at once when its mean logit gap is wide enough",
        "static",
        differs="the gap is over the block's open slots, not over an answer region, and later blocks are not filled",
        slots={"prophet": {}},
    ),
    "stable-confident": Preset(
        "DiffusionGemma in transformers",
        "entropy-bounded; all of the block at once when its proposals are stable and certain",
        "entropy",
        differs="its slots are drawn anew at every pass and it has no default values; ours stay, and so do ours",
        slots={"stable": {}},
    ),
    "adablock": Preset(
        "AdaBlock-dLLM, arXiv 2509.26432",
        "threshold, in blocks that end on a delimiter",
        "threshold",
        differs="trained sizes only; in between, slots behind the delimiter wait. As in the code, newline only",
        needs="a tokenizer with a delimiter token",
        slots={"adablock": {}},
        block_size=32,
    ),
    "dcd": Preset(
        "Deferred Commitment Decoding, arXiv 2601.02076",
        "threshold, among the first open slots of a large block",
        "threshold",
        differs="growth of blocks is off, as in the code; dcd.growth needs blocks off the grid",
        slots={"dcd": {}},
        block_size=32,
    ),
    "credit": Preset(
        "CreditDecoding, arXiv 2510.06133 (dInfer)",
        "threshold on logits to which earlier proposals have added credit",
        "threshold",
        differs="dInfer's code compares with >, so does this",
        policy_args={"strict": True},
        slots={"credit": {}},
    ),
    "hierarchical": Preset(
        "dInfer, arXiv 2510.08666",
        "sure slots, and the best one of every run of open slots",
        "hierarchical",
        policy_args={"strict": True},
    ),
    "flashblock": Preset(
        "FlashBlock, arXiv 2602.05305",
        "threshold; a block's attention over its context is kept while fewer than tau slots change",
        "threshold",
        differs="no code is public: the rule and tau are a reproduction's. Slots are counted since the last pass",
        needs="KV before a block that stays as it is, and SDPA",
        slots={"flashblock": {}},
    ),
    "fast-dllm-prefix": Preset(
        "Fast-dLLM, arXiv 2505.22618",
        "threshold; KV of what stands before a block is kept from the block's first pass on",
        "threshold",
        needs="full attention: elsewhere that KV is exact and kept anyway",
        slots={"prefix_kv": {}},
        block_size=32,
    ),
    "fast-dllm-dual": Preset(
        "Fast-dLLM, arXiv 2505.22618",
        "threshold; KV of everything outside a block is kept from the block's first pass on",
        "threshold",
        needs="full attention",
        slots={"dual_kv": {}},
        block_size=32,
    ),
    "dkv": Preset(
        "dKV-Cache-Decode, arXiv 2505.15781",
        "static; KV of a token is kept from the pass after it was written on, and refreshed every 8 passes",
        "static",
        differs="blocks of the checkpoint's size, not 64; where KV before a block is exact, the block's own rows only",
        slots={"dkv": {}},
    ),
    "dkv-pd": Preset(
        "dKV-Cache-PD, arXiv 2505.15781",
        "static; as dkv, and the prompt's KV is that of the very first pass for good",
        "static",
        differs="the code has it for Dream only, without blocks; blocks begin with a refresh of all but the prompt",
        needs="full attention: elsewhere the prompt's KV is exact",
        slots={"dkv_pd": {}},
    ),
    "dkv-greedy": Preset(
        "dKV-Cache-Greedy, arXiv 2505.15781",
        "one slot a step, in an order drawn before; kept is all KV but the last token's, the slot's, masks' around it",
        "random",
        differs="one order for all blocks, the code draws anew; blocks of the checkpoint's size, not 64",
        slots={"dkv_greedy": {}},
    ),
    "fast-dllm-v2": Preset(
        "Fast-dLLM v2, arXiv 2509.26328",
        "threshold, in parts of 8 slots of a large block, whose other KV is kept once the part has its first token",
        "threshold",
        differs="a request goes on alone, not with its batch's slowest; the code compares with >, so does this",
        policy_args={"strict": True},
        threshold=0.95,
        slots={"sub_blocks": {}},
        block_size=32,
    ),
    "window": Preset(
        "Window-Diffusion, arXiv 2601.20332",
        "static, among the first 16 open slots; KV of the next 64 masks is kept for 32 passes, there are none behind",
        "static",
        differs="the paper's rule in every pass; the code decides far slots, or the leftmost one, as a phase begins. "
        "In blocks; the answer is not cut at an early end token",
        slots={"phase_kv": {}},
        block_size=32,
    ),
    "llada2.1": Preset(
        "LLaDA2.1, arXiv 2602.08676 (SGLang's JointThreshold)",
        "threshold; tokens of the open block are replaced wherever the best token is another one",
        "threshold",
        differs="the values for speed; for quality threshold 0.7 and token_edit.tau 0.5. Closed blocks stay closed",
        needs="noise 'mixed'",
        policy_args={"strict": True},
        threshold=0.5,
        slots={"token_edit": {"strict": True}},
        block_size=32,
    ),
    "diffuspec": Preset(
        "DiffuSpec, arXiv 2510.02358",
        "speculative; of a draft the path that also reads well from left to right, drafts as long as pays",
        "threshold",
        differs="n-grams of prompt and answer, not of a corpus; ended paths are charged for the slots behind; the "
        "same weights verify, not a second model; a draft's block is the smallest trained one that holds it",
        needs="causal context and an AR mode",
        slots={"cps": {}, "adl": {}},
        mode="speculative",
        block_size=32,
    ),
    "top-margin": Preset(
        "Train for the Worst, Plan for the Best, arXiv 2502.06768",
        "static, ranked by the margin between the two best probabilities",
        "static",
        slots={"margin": {}},
    ),
}


def override(config: BlockGenerationConfig, given: dict[str, Any], traits: DiffusionTraits) -> None:
    """Set ``given`` settings; a ``decoder`` among them first sets everything its preset decides.

    Fields in a given ``slots`` are set beside the preset's own.

    Raises:
        ValueError: for a preset that there is not.
    """
    given = dict(given)
    if given.get("decoder") is not None:
        preset = preset_named(given["decoder"])
        same = given.get("policy") in (None, preset.policy)
        _fill(config, preset, traits)
        config.policy_args = preset.policy_args if same else None
        if same and given.get("policy_args"):
            given["policy_args"] = {**(preset.policy_args or {}), **given["policy_args"]}
        if isinstance(given.get("slots"), dict):
            names = {**preset.slots, **given["slots"]}
            given["slots"] = {name: {**preset.slots.get(name, {}), **(names[name] or {})} for name in names}
    for name, value in given.items():
        setattr(config, name, value)


def _fill(config: BlockGenerationConfig, preset: Preset, traits: DiffusionTraits) -> None:
    sizes = [size for size in traits.trained_block_sizes if preset.block_size and size <= preset.block_size]
    config.block_size = max(sizes, default=None)
    config.slots = {name: dict(fields) for name, fields in preset.slots.items()} or None
    for name in ("mode", "policy", "threshold", "denoising_steps"):
        setattr(config, name, getattr(preset, name))


def preset_named(name: str) -> Preset:
    """The preset of that name; ValueError, naming all, if there is none."""
    if name not in PRESETS:
        raise ValueError(f"decoder {name!r} is not one of {', '.join(PRESETS)}")
    return PRESETS[name]

"""Published decoders that differ in what a pass feeds, keeps or changes: approximate caches, edits, drafts."""

from vlm.generation.preset import Preset

PASSES: dict[str, Preset] = {
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
        differs="the released loop never stops at an end token",
        needs="full attention: elsewhere that KV is exact and kept anyway",
        slots={"prefix_kv": {}},
        block_size=32,
    ),
    "fast-dllm-dual": Preset(
        "Fast-dLLM, arXiv 2505.22618",
        "threshold; KV of everything outside a block is kept from the block's first pass on",
        "threshold",
        differs="the released loop never stops at an end token",
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
        differs="the values for speed; for quality threshold 0.7 and token_edit.tau 0.5",
        needs="noise 'mixed'",
        policy_args={"strict": True},
        threshold=0.5,
        slots={"token_edit": {"strict": True}},
        block_size=32,
    ),
    "llada2.1-blocks": Preset(
        "LLaDA2.1, arXiv 2602.08676 (multiple block editing)",
        "as llada2.1, and the finished block before the open one may still change",
        "threshold",
        differs="the paper gives no rule and no code: here both are one block of the model's, and the older closes "
        "when a third begins",
        needs="noise 'mixed'; both together a trained size, off the grid, or full attention",
        policy_args={"strict": True},
        threshold=0.5,
        slots={"token_edit": {"strict": True}, "multi_block": {}},
        block_size=16,
    ),
    "diffuspec": Preset(
        "DiffuSpec, arXiv 2510.02358",
        "speculative; of a draft the path that also reads well from left to right, drafts as long as pays",
        "threshold",
        differs="n-grams of prompt and answer, not of a corpus; ended paths are charged for the slots behind; the "
        "same weights verify unless verifier.model names others; a draft's block is the smallest trained one that "
        "holds it",
        needs="causal context, and an AR mode or a verifier",
        slots={"cps": {}, "adl": {}},
        mode="speculative",
        block_size=32,
    ),
}

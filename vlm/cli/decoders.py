"""The presets as a list: where each comes from, whether the loaded model can run it, and with which values."""

from dataclasses import fields

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from vlm.answering import settings
from vlm.generation.config import BlockGenerationConfig
from vlm.generation.presets import PRESETS, Preset
from vlm.generation.slots import CACHING, OTHERS, RULES, VERIFY
from vlm.generation.strategy import Strategy, build_strategy

GRID = ("size", "origin", "sizes", "delimiters", "anywhere")  # what spans take from the checkpoint, not from a preset


def decoder_on(model, tokenizer, name: str) -> tuple[BlockGenerationConfig, Strategy] | str:
    """A preset's settings and strategy on a model, or why it cannot run it: what is needed, and what is there."""
    try:
        config = settings(model, tokenizer=tokenizer, decoder=name)
        return config, build_strategy(model, config, tokenizer=tokenizer)
    except ValueError as error:
        return " ".join(str(error).split())


def values_of(config: BlockGenerationConfig, strategy: Strategy) -> str:
    """What a preset runs with, strategy by strategy, defaults included."""
    told = [f"{config.policy}({_fields(strategy.commit)})"] if strategy.mode == "block" else [strategy.mode]
    for name, given in (config.slots or {}).items():
        kind = {**RULES, **OTHERS, **VERIFY}.get(name)
        built = strategy.caching if name in CACHING else strategy.spans if kind is None else kind(**given)
        told.append(f"{name}({_fields(built)})")
    return f"blocks of {strategy.spans.size}: " + " + ".join(told)


def _fields(strategy) -> str:
    found = {f.name: getattr(strategy, f.name) for f in fields(strategy) if f.name not in GRID}
    return ", ".join(f"{name}={value}" for name, value in found.items())


def _planned(preset: Preset) -> str:
    """What a preset itself says, where it cannot be built."""
    told = {preset.policy: preset.policy_args or {}} if preset.mode == "block" else {}
    told |= preset.slots
    return " + ".join(f"{name}({', '.join(f'{k}={v}' for k, v in given.items())})" for name, given in told.items())


def print_decoders(model, tokenizer, name: str) -> None:
    """Print the list to stdout."""
    table = Table(title=f"decoders on {name}", title_justify="left", box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for decoder, preset in PRESETS.items():
        found = decoder_on(model, tokenizer, decoder)
        runs = isinstance(found, tuple)
        lines = [preset.rule, preset.source, values_of(*found) if runs else _planned(preset)]
        lines += [f"differs: {preset.differs}"] if preset.differs else []
        lines += [f"needs: {preset.needs}"] if preset.needs else []
        lines += [] if runs else [f"cannot run here: {found}"]
        mark = Text("runs", style="green") if runs else Text("refused", style="red")
        table.add_row(Group(Text(decoder, style="bold"), mark), Group(*map(Text, lines), Text()))
    Console().print(table)

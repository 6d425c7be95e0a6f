"""Checkpoints: ours, those of other projects, conversions and exports, adapters merged in, smaller weights."""

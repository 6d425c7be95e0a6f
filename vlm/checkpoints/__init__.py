"""Checkpoints: loading ours, and (as they come) those of others."""

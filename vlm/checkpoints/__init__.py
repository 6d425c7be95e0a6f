"""Checkpoints: loading one, merging an adapter into one, and making a trained one the embedded model."""

"""Checkpoints: loading one, and making a trained one the embedded model."""

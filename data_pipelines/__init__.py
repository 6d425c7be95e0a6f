"""Files to samples to batches. Knows nothing of models and imports no torch: what a sample costs, it is told."""

"""Files to samples to batches. Imports nothing of the model: it is handed a processor."""

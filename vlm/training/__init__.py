"""Training: recipes, data streams, row building, the trainer and its callbacks."""

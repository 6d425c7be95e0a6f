"""Published claims, measured again at a scale of two CPU cores: ``python -m eval.studies NAME``."""

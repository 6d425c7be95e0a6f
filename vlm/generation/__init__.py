"""The decoding loop and its slots."""

"""What the command line shows: a streaming terminal, a chat, a batch run. Part of the doors, like `infer.py`."""

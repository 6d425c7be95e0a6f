"""Speed and memory, always two things beside each other in one run."""

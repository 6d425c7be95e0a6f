"""Before every test: torchvision repaired on CPU-only torch, the hub out of reach, one thread for tiny nets."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import vision_encoders  # noqa: F401, I001
import torch

torch.set_num_threads(1)

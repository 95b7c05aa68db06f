"""One thread for every test: sums are then always added in the same order, and tests can run side by side."""

import torch

torch.set_num_threads(1)

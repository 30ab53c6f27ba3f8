"""Flax modules, named after the PyTorch keys they receive."""

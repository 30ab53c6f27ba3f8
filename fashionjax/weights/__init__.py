"""Untrusted weight files: their bytes, which model they hold, and every key into a tree and back."""

"""Recorded outputs of the original code, recomputed and compared."""

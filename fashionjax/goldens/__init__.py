"""Recorded numbers of the original code: how weights and inputs are drawn, and what is compared."""

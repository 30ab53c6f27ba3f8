"""Metrics of a whole split, in numpy; each says its definition in one line."""

"""Embeddings of many images: built from folders and datasets, searched exactly, saved as one file."""

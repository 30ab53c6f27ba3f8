"""Scoring and completing outfits of photos with a compatibility model."""

"""Databases of garments: their features, what is near a garment, and what goes with it."""

"""A model ready to run, on dataset splits and on photos."""

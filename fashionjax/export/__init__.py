"""A checkpoint written in formats that other programs read."""

"""Photos → the images of a gallery that show the same garment."""

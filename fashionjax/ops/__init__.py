"""Functions on arrays: one image, lifted by vmap; no parameters."""

"""Weight files of strangers: their bytes, whose model they hold, and every key into a tree and back."""

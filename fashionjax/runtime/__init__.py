"""What a run is made of: state, optimiser, devices, checkpoints, datasets, logs."""

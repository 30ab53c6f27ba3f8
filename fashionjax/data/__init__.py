"""Records of prepared datasets, made into batches for the devices; photos as they come."""

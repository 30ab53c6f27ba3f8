"""FashionJAX: fashion-vision systems on JAX and Flax."""

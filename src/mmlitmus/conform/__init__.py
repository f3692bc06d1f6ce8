"""What real kernels did, kept as recordings, and the model held to it."""

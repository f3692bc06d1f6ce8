"""Which lock keeps what alive."""

"""Small drivers: what the lab's probe module does, and a driver that changes what it maps."""

"""Memory management."""

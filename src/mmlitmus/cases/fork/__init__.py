"""What a child gets."""

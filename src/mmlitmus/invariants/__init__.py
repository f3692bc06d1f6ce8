"""What must hold, one module a family."""

"""What a CPU still remembers."""

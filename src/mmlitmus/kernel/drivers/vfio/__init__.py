"""VFIO."""

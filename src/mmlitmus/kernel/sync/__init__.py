"""Locks under the kernel's names."""

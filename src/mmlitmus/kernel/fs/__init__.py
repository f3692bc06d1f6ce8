"""Filesystems: what the kernel prints."""

"""The model of the kernel. Folders mirror the kernel's own tree; everything here reads like the kernel and is none of
it.
"""

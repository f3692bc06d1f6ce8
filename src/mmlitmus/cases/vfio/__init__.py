"""VFIO's BAR mappings: the 2024 thread on io_remap_pfn_range in the fault handler."""

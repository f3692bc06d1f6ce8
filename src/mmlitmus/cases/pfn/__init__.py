"""Mappings of frame numbers: what remap_pfn_range and vmf_insert_pfn do and refuse, and what a process may then do."""

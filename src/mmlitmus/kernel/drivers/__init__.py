"""Modelled drivers: users of mmlitmus.api, nothing else."""

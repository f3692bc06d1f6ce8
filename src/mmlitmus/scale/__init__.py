"""Whole machines: what a guest of 64 GiB, or a BAR of 16 GiB, costs the kernel.

The functions are those of the model, with the answers that they have in a search; only what they work on is larger.
Page tables and frames are arrays, a batch of a leaf loop is up to a whole block of 1G, nobody is scheduled, and there
are no events. So nothing is said here about who may come in between.

``guest`` and ``bar`` (``mmlitmus.scale.run``) run one such machine. The arrays are numpy's, an extra:
``pip install 'mmlitmus[scale]'``.
"""

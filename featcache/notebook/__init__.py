"""featcache held against the reference notebook.

`reproduce` runs its five systems. `parity` measures whether a cache and training end to end give
the same; `end_to_end` is the notebook's way, written apart from everything else.
"""

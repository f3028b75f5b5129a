"""featcache compared with the reference notebook.

`reproduce` runs the notebook's five systems. `parity` measures whether training on a cache gives
the same as training end to end. `end_to_end` trains in the notebook's way, and shares only
the reading of image files with the rest of featcache.
"""

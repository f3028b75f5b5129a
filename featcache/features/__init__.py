"""A cache as training batches: which rows, in which order, and where they stay.

`lookup` finds the cache that is meant. `split` says which rows train, `residence` where they stay
and in which `order` they come: all rows, or windows of N. `resident` loads them, `windows` reads
those that fit nowhere, `datamodule` hands out batches.
"""

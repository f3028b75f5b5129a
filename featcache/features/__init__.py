"""A cache as training batches: which rows, in which order, and where they stay.

`lookup` finds the cache that is meant, `rows` puts its features where they fit, `windows` reads
those that fit nowhere, `datamodule` hands out batches.
"""

"""A cache as training batches: which rows, in which order, and where they stay.

`lookup` finds the cache that is meant. `split` chooses the rows that train. `residence` chooses
where they stay and in which `order` they come: all rows, or windows of N. `resident` loads them,
and `windows` reads those that do not fit into memory. `datamodule` keeps the features while a head
trains, and hands out batches.
"""

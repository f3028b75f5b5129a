"""How good heads of a setting are on a small set: K heads, each tested on the rows it did not see.

`pool` collects the rows, `divide` makes the folds, `fold_head` trains the head of one fold, and
`cross_validation` runs all folds and sums up. The heads are not kept: docs/decisions/0016 says why.
"""

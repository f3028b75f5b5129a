"""How good heads of a setting are on a small set: K heads, each tested on the rows it did not see.

`pool` collects the rows, and `divide` makes the folds. `fold_head` trains the head of one fold,
`fold_fit` fits it by a solver. `cross_validate` does all folds, `cross_validation` says what was
found. The heads are not kept: docs/decisions/0016 says why.
"""

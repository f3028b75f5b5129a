"""How good heads of a setting are on a small set: K heads, each tested on the rows it did not see.

`divide` makes the folds, `pool` the rows they are of, `fold_head` trains the head of one, and
`cross_validation` runs all and sums up. The heads are not kept: docs/decisions/0016 says why.
"""

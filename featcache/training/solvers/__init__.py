"""Heads that are fitted at once, without epochs: logreg, knn, ncm, ridge, lda.

`solver` says what a solver is, `table` lists them, each has a file. `fit` fits one to rows, chooses
on validation rows and finishes it; `solver_run` makes a run folder of that. `rows` and `centred`
give rows in portions. `lbfgs`, `logistic`, `spectrum` and `conjugate` are the numerical part, and
`steps` is how it tells how far it is.
"""

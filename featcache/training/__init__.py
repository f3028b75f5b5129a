"""Stage two: heads on cached features.

`train_head` is the public verb, `run` trains one head, `module` is its LightningModule with the
loss. `patience` stops early. `recipes` chooses the settings that were not given, and
`notebook_systems` has the notebook's settings. `sweeps` trains many heads side by side, `solvers`
fits heads without epochs, and `folds` cross-validates.
"""

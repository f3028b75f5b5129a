"""Stage two: heads on cached features.

`train_head` is the public verb, `run` trains one head, `module` is its LightningModule. `sweeps`
trains many heads side by side. `recipes` and `notebook_systems` hold the settings.
"""

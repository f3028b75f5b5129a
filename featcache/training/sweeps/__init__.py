"""Many heads in one pass over the features.

`sweep` is the public verb. `grid` lists the heads. `head_bank` trains heads of one shape side by
side, `bank_trainer` runs the epochs, and `entry` keeps how far each head is. `grid_run` saves what
is done, and `table` shows it.
"""

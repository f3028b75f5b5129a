"""Many heads in one pass over the features.

`sweep` is the public verb. `grid` lists the heads, `head_bank` trains heads of one shape side by
side, `bank_trainer` runs the epochs, `grid_run` keeps what is done, `table` shows it.
"""

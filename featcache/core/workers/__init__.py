"""Processes of this machine that do one job together, started again when one dies.

`launching` starts them by torch's elastic agent. A `worker` does what it is given, and what it
refuses comes back as a value (`messages`). `hearing` is the leader's ear. What the job is, and who
leads it, stands elsewhere: scale/devices computes a cache so, training/sweeps/devices heads.
"""

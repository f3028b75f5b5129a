"""A sweep on several devices of one machine: groups of heads, dealt to workers.

`train_on_devices` is the way in. Its leader finds the cache, cuts the grid into groups, and starts
the workers (core/workers). A `worker` loads the cache, and takes one group after the other. The
folders of runs and the checkpoints of groups say what is done, and the leader writes the table.
"""

"""A sweep on several devices of one machine: groups of heads, dealt to workers.

The `leader` cuts the grid into groups, and starts the workers (core/workers). A `worker` loads the
cache; `taking` takes one group after the other. The folders of runs and the checkpoints of groups
say what is done, and the leader writes the table.
"""

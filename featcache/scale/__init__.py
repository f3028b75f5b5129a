"""One cache on several machines, each of which computes a share of it.

`shares` says which blocks a share has. `plan_file` is plan.json, in which all shares agree;
`planning` makes it. `extract_share` computes one share, as a part: a cache file of its own; what
came of it is a `share_result`. `parts` says which parts there are, `part_checks` holds them against
the plan, and `merge_parts` joins them to the file that one process would have written. `dealing`
has all shares computed as tasks by whoever runs them, and `ray_engine` is Ray, which does.
`forecast` says before all that what it will cost, from the `rates` of this machine. How blocks are
copied stands in `store/merging.py`.
"""

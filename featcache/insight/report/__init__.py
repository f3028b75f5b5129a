"""What trained heads are worth, as one page: `report` is the public verb.

`judged_run` reads what `evaluate` left in a run's folder, and `systems` makes one system of the
runs of a setting. `cache_facts` holds what a cache says by itself, which is computed once and kept
beside the cache. `gathering` brings these together, and the files in `sections` write the page,
with the pieces of `insight/page`.
"""

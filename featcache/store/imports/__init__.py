"""Foreign feature files, taken into a cache.

`import_features` is the public verb. A child process reads the file, because libraries may crash on
it. `sandbox` starts and limits the child, and `sandbox_child` and `sandbox_tables` run in it.
Before anything is written, `scan` checks what the child sends of an HDF5 file, and `scan_table`
what it sends of a table. `keep` writes the cache. From a file that `store.exports` wrote,
`exported` makes the same cache again.
"""

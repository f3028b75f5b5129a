"""Foreign feature files, taken into a cache.

A child process reads the file, because libraries may crash on it: `sandbox` starts and limits it,
`sandbox_child` and `sandbox_tables` are what runs there. `scan` checks what comes back of an HDF5
file, `scan_table` of a table, before anything is written. `exported` makes the same cache again of
a file that `store.exports` wrote.
"""

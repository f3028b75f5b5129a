"""Foreign feature files, taken into a cache.

A child process reads the file, because libhdf5 may crash on it: `sandbox` starts and limits it,
`sandbox_child` is what runs there. `scan` checks what comes back before anything is written.
"""

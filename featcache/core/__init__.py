"""What both stages stand on, and what knows neither images nor heads.

Here: identities, paths and files, devices and memory, precision, arguments as people give them,
notes, stopping. Nothing here opens a dataset, a backbone or a cache.
"""

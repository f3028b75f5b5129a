"""Features out of a cache, as files that other programs read: Parquet, npz, safetensors.

`export_features` is the public verb. `table` says which columns and which claims a file has; each
kind of file has a writer of its own. `store.imports` reads such a file back.
"""

"""Features out of a cache, as files that other programs read: Parquet, npz, safetensors.

`export_features` is the public verb. `table` has the columns of a file, and what the file claims of
its cache. Each kind of file has a writer of its own. `store.imports` reads such a file back.
"""

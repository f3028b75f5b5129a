"""Parts of a cache in an object store: S3, Google Cloud Storage, Azure.

A part is made in a folder of this machine, as always, and uploaded when it is complete. `objects`
reads and writes objects, with limits on time and tries (`calls`). `layout` says which objects a
folder of parts has there, `plans` finds the plan, and `part_files` copies a part to this machine.
`extract_share_there` computes and uploads a share. `describe_there` says what is there, and
whether it is as it was written. `fetch_cache` brings a cache to this machine.
"""

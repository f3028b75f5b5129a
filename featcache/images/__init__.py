"""Datasets by name, and their images on the way to a backbone.

`datasets` opens a dataset by its name. `sources` has a file for each kind of dataset, and `splits`
says what a source gives. Images are read once and compared with their digest (`checked_images`),
out of files (`image_files`), archives (`archives`) or tables (`parquet_images`). `given_images`
come from Python. `decode` makes pixels of bytes, `decode_batches` resizes these with PIL, and
`decode_pool` does it in several processes. `batches` gives batches of
images, from files or from memory. `transform` makes a backbone's input of a batch, on its device.
"""

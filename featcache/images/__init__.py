"""Datasets by name, and their images on the way to a backbone.

`datasets` opens a dataset by its name. `sources` has a file for each kind of dataset, and `splits`
has what a source gives. `checked_images` reads an image once and compares it with its digest. The
bytes are in files (`image_files`), archives (`archives`) or tables (`parquet_images`), or the
images come from Python (`given_images`). `decode` turns bytes into pixels, `decode_batches` resizes
them with PIL, and `decode_pool` does this in several processes. `batches` gives batches of images,
from files or from memory. `transform` turns a batch into a backbone's input, on the backbone's
device.
"""

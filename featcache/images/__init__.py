"""Datasets by name, and their images on the way into a backbone.

`datasets` finds a dataset and `sources` holds one file for each kind. `image_files` and `decode`
turn files into uint8 pixels, `decode_pool` does it in several processes, `batches` puts them on
a fixed grid, `transform` resizes and normalises them.
"""

"""What both stages use, and what knows neither images nor heads.

Here are fingerprints, names of datasets and backbones, paths and files, devices and memory,
precision, checks of arguments, notes, and stopping. Nothing here opens a dataset, a backbone or a
cache.
"""

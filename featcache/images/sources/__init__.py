"""One file for each kind of dataset; `source` has the interface, and lists what a new kind needs.

torchvision's kind has three files: `torchvision_sets`, `torchvision_table`, `torchvision_download`.
"""

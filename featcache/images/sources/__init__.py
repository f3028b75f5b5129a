"""One file for each kind of dataset; `source` says what a kind has to offer.

torchvision's kind has three: `torchvision_sets` with its table and its downloads.
"""

"""What may be wrong with the images of a cache: duplicates, labels, outliers.

`audit` is the public verb, `result` what it finds. `rows` numbers the images of all splits, and
`candidates` has the nearest of each by their features. `images` opens the dataset again, `grey`
compares two images, and `duplicates` puts both together. `label_issues` ranks labels by what other
images say, `outliers` ranks images by how far off they are. `tested` tests a head without the
images that it was trained on. `keep_list` writes a list without what was found.
"""

"""What is in a cache, and what its heads are worth.

`report` writes a page about heads; `page` has the pieces that pages are made of. `probe` tells how
good a backbone is for these images. `probe_rows` chooses the images and draws a few of each class,
`classifiers` fits to them, and `probe_cache` does both for one cache. `probe_result` is the result,
and `few_shot_plot` draws its curve. The public verbs `similar` and `audit` have folders of their
own. `nearest` compares rows, which `stored_rows` reads. `cache_images` finds the images of a cache
again, and `thumbnails` makes small pictures of them.
"""

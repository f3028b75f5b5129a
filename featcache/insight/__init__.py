"""What is in a cache, and what people look at: how good its backbone is for these images.

`probe` is a public verb. `probe_rows` chooses the images and draws a few of each class,
`classifiers` fits to them, and `probe_cache` does both for one cache. `probe_result` is the result,
and `few_shot_plot` draws its curve. The public verb `similar` has a folder of its own. `nearest`
compares rows, `cache_images` finds the images of a cache again, and `thumbnails` makes small
pictures of them.
"""

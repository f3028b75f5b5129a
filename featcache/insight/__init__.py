"""What is in a cache: how good its backbone is for these images.

`probe` is the public verb. `probe_rows` chooses the images, `classifiers` fits them, `few_shot`
draws a few of each class, `probe_result` says what was found, and `few_shot_plot` draws it.
"""

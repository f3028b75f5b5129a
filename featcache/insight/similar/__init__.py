"""Which rows of a cache are nearest to an image: `similar` is the public verb.

`asked` finds out what is asked about, a row or a file, and `query` makes its features. `result` is
the answer, and `pictures_page` shows it. What compares rows is `insight/nearest.py`.
"""

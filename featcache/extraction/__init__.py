"""Stage one: images through a backbone into a cache.

`extract` is the public verb. `planning` and `plan` decide everything before the first row, `run`
makes or resumes the files, `fill` computes the rows and `writer_thread` writes them. `repair`
computes damaged rows again.
"""

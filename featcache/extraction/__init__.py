"""Stage one: images through a backbone into a cache.

`extract` is the public verb. `plan` decides everything before the first row, and a `job` carries it
out. `run` makes or resumes the files, `fill` has the rows computed and `writer_thread` writes them.
`repair` computes damaged rows again.

To divide a job over several devices: `run` opens the files and makes a job ready on its device, and
`fill` takes all pending blocks of a file. Make a job for each device, and give `fill` a share of
the blocks.
"""

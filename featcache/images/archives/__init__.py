"""Images inside zip and tar archives, read where they lie; nothing is unpacked.

`member` says what is known of a file in an archive, and which names are refused. `zip_members` and
`tar_members` list an archive. `images` reads one image of it, and `tree` shows its folders.
"""

"""Images inside zip and tar archives, read where they lie; nothing is unpacked.

`member` describes one file in an archive, and refuses names that are not safe. `zip_members` and
`tar_members` list the files of an archive. `images` reads one image, and `tree` lists the folders.
"""

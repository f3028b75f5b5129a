"""What a trained head is for: new images through its backbone, to an answer.

`backbone` rebuilds the backbone that made a head's features, and sees that it is the same function.
Nothing here trains or writes a cache.
"""

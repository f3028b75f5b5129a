"""What a trained head is for: new images through its backbone, to an answer.

`predict` and `load_predictor` (in `predictor`) are the public verbs. `pipeline` takes images
through a backbone and its heads. `backbone` rebuilds the backbone that made a head's features, and
checks that it is the same function. `exports` writes head and backbone as one file. Nothing here
trains or writes a cache.
"""

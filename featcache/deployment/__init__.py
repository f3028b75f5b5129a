"""What a trained head is for: new images through its backbone, to an answer.

`predict` and `load_predictor` (in `predictor`) are the public verbs. `image_features` takes images
through a backbone, and `pipeline` through its heads. `backbone` rebuilds the backbone that made the
features of a head or a cache, and checks that it is the same function. `exports` writes head and
backbone as one file. Nothing here trains or writes a cache.
"""

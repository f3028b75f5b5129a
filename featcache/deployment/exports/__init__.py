"""A head and its backbone as one file for other programs: ONNX, PT2, safetensors, a hub's folder.

`export` is the public verb. `network` is what is written, `formats` writes and reads it, `check`
runs the written file in a process of its own, and `card` tells people what it is. Nothing here
predicts: that is the room around it.
"""

"""A head and its backbone as one file for other programs: ONNX, PT2, safetensors, a hub's folder.

`export` is the public verb. `network` is what is written: as a graph by `traced` and `onnx_file`,
as tensors by `tensors_file`. `check` runs the written file in a process of its own, and `card`
tells people what it is. To predict here, see `deployment`.
"""

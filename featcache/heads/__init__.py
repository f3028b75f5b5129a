"""What a head is: its layers, its file, the folder of its run, its predictions.

How a head is trained stands in `training`, what its figures say in `evaluation`.
"""

"""What a head is: its layers, its file, the folder of its run, its predictions.

`predictions` has its answers for the rows of a cache; for new images, see `deployment`. How a head
is trained stands in `training`, what its figures say in `evaluation`.
"""

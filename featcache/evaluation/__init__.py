"""How good a head is: figures with intervals (`metrics`), comparison, tables and plots.

`evaluate` and `compare` are the public verbs. `heads/predictions.py` gives the answers they judge.
"""

"""Frozen networks by name: their weights, and ready to run on a device.

`load` finds a backbone with its weights and `runner` runs it. `engines` makes it faster on the
machine at hand. Rows leave through `extraction`; nothing here knows of caches or heads.
"""

"""One file for each command. It parses, calls one function of the library, and shows the result.

A new command is a file here and an entry in `_COMMANDS` of `featcache_cli/app.py`, by which it is
imported when somebody asks for it. What it computes stands in a room of `featcache/`; a new room
also goes into the layers in `pyproject.toml`.
"""

"""What this machine has for featcache, and what it lacks: `doctor` is the public verb.

Each of `packages`, `torch_facts`, `folders`, `compiler` and `holdings` looks at one part of it, and
tells what to do where something is wrong. `finding` is what they tell. torch is imported in a
process of its own, `torch_child`: where it is broken, importing it may end the process.
"""

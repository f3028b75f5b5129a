"""`python -m featcache_cli` is `featcache`."""

from featcache_cli.app import main

main()

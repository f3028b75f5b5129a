"""`featcache`, and `python -m featcache_cli`: signals are met before all else is imported."""

from __future__ import annotations

from featcache_cli import signals
from featcache_cli.streams import prepare_streams


def main() -> None:
    """Run the command line; the process ends with one of the documented exit codes."""
    prepare_streams()  # before a pipe could take the place of a closed one
    signals.take_over()
    from featcache_cli.app import main as command_line

    command_line()


if __name__ == "__main__":
    main()

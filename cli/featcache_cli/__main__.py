"""`featcache`, and `python -m featcache_cli`: signals are met before all else is imported."""

from __future__ import annotations

from featcache_cli import signals


def main() -> None:
    """Run the command line; the process ends with one of the documented exit codes."""
    signals.take_over()
    from featcache_cli.app import main as command_line

    command_line()


if __name__ == "__main__":
    main()

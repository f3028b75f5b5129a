"""What is told of one part of a machine."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARNING, PROBLEM = "ok", "warning", "problem"


@dataclass(frozen=True)
class Finding:
    """What is told of one part of a machine.

    Attributes:
        subject: Which part.
        state: "ok"; "warning" if featcache works, but not as well as it could; "problem" if it does
            not work.
        said: What is there.
        way_out: What to do; empty if there is nothing to do.
    """

    subject: str
    state: str
    said: str
    way_out: str = ""


@dataclass(frozen=True)
class Checkup:
    """All that was found.

    Attributes:
        findings: One by one.
    """

    findings: tuple[Finding, ...]

    @property
    def can_work(self) -> bool:
        """Whether featcache works here: there is no problem."""
        return all(one.state != PROBLEM for one in self.findings)

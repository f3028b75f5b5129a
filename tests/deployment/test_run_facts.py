"""What a card counts is the cache that trained the head."""

from __future__ import annotations

from pathlib import Path

from featcache.core.reporting import silent
from featcache.deployment.exports.run_facts import facts_of
from tests.deployment.conftest import Extract
from tests.deployment.heads import save_random_head


def test_another_cache_in_the_place_of_the_heads_is_not_counted(
    of_digits: Extract, tmp_path: Path
) -> None:
    own, other = of_digits().path, of_digits(limit=5).path
    head = save_random_head(own, tmp_path / "run")
    other.replace(own)
    notes: list[str] = []

    facts = facts_of(head, tmp_path / "run", cache_dir=tmp_path / "cache", on_note=notes.append)

    assert facts.rows_per_class == {}
    assert notes[0] == f"the cache {own} is not at hand: the card counts no images of each class"
    own.unlink()
    moved = of_digits().path.rename(tmp_path / "cache" / "digits" / "moved.h5")
    found = facts_of(head, tmp_path / "run", cache_dir=tmp_path / "cache", on_note=silent)
    assert moved != own
    assert sum(found.rows_per_class["test"].values()) == 8

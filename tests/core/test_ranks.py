from __future__ import annotations

import pytest

from featcache.core.ranks import require_one_rank
from featcache.errors import UsageError


@pytest.mark.parametrize("n_ranks", ["2", " 16 "])
def test_a_process_that_is_one_of_several_ranks_is_refused(
    monkeypatch: pytest.MonkeyPatch, n_ranks: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", n_ranks)

    with pytest.raises(UsageError, match=rf"one of {n_ranks.strip()} ranks .* without ddp: start"):
        require_one_rank()


@pytest.mark.parametrize("n_ranks", [None, "", "1", "0", "all", "-2", "²"])
def test_a_process_of_its_own_is_not_refused(
    monkeypatch: pytest.MonkeyPatch, n_ranks: str | None
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if n_ranks is not None:
        monkeypatch.setenv("WORLD_SIZE", n_ranks)

    assert not is_refused()


def is_refused() -> bool:
    try:
        require_one_rank()
    except UsageError:
        return True
    return False

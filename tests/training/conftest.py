"""What tests of training share."""

from __future__ import annotations

import pytest
from torch.distributed import HashStore, Store  # type: ignore[attr-defined]


@pytest.fixture
def store() -> Store:
    """What workers share, within this process."""
    return HashStore()

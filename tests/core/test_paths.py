"""A path that is a URL is refused, and no message shows a secret that it may hold."""

from __future__ import annotations

import pytest

from featcache.core.paths import expanded
from featcache.core.store_urls import store_url
from featcache.errors import UsageError

_URLS = (
    "s3://KEY:SECRET@bucket/x",
    "s3://KEY:SEC/RET@bucket/x",
    "az://c/p?sv=1&sig=SECRET",
    "az://c/p?sig=SECRET&of=@",
    "gs://bucket/x#SECRET",
    "s3:/KEY:SECRET@bucket/x",
)


@pytest.mark.parametrize("url", _URLS)
def test_no_message_shows_what_may_be_a_secret(url: str) -> None:
    for read in (expanded, store_url):
        with pytest.raises(UsageError) as raised:
            read(url)

        assert "SEC" not in str(raised.value)
        assert "RET" not in str(raised.value)


def test_a_url_without_a_secret_is_shown_whole() -> None:
    with pytest.raises(UsageError, match="'s3://bucket/x' is in an object store"):
        expanded("s3://bucket/x")

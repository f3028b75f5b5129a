import socket

from featcache.core.network import silence_limit_s


def test_a_silent_server_is_given_30_seconds_or_what_the_process_has_set() -> None:
    before = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(None)
        own = silence_limit_s()
        socket.setdefaulttimeout(5.0)
        set_by_the_user = silence_limit_s()
    finally:
        socket.setdefaulttimeout(before)

    assert (own, set_by_the_user) == (30.0, 5.0)

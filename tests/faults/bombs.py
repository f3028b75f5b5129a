"""Small image files that cost much: pixels, scans, a long side."""

from __future__ import annotations

import struct


def many_scans(side: int, n_scans: int) -> bytes:
    """Write a grey progressive JPEG of `side` x `side` pixels whose scans say nothing.

    Each costs the decoder a walk over all blocks, and the file some bytes for 32,767 blocks
    (an end-of-band run; ITU-T T.81, G.1.2.2).
    """
    n_blocks = (-(-side // 8)) ** 2
    ones = bytes([1] * 64)
    one_symbol = bytes([1, *[0] * 15])
    parts = [
        b"\xff\xd8",
        _segment(0xDB, b"\0" + ones),
        _segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + bytes([1, 0x11, 0])),
        _segment(0xC4, b"\0" + one_symbol + b"\0"),  # of DC: no difference
        _segment(0xC4, b"\x10" + one_symbol + b"\xe0"),  # of AC: a run of 2**14 and more
        _segment(0xDA, bytes([1, 1, 0, 0, 0, 0])),
        bytes(-(-n_blocks // 8)),
    ]
    bits = ""
    for left in range(n_blocks, 0, -32_767):
        bits += f"0{max(0, min(left, 32_767) - 16_384):014b}"
    bits += "1" * (-len(bits) % 8)
    runs = int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\0")
    parts += [_segment(0xDA, bytes([1, 1, 0, 1, 63, 0])), runs] * (n_scans - 1)
    return b"".join([*parts, b"\xff\xd9"])


def _segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body

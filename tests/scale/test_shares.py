from __future__ import annotations

import pytest

from featcache.errors import UsageError
from featcache.scale.shares import array_of, blocks_of_share, share_of


@pytest.mark.parametrize(
    ("typed", "environment", "read"),
    [
        ("0/16", {}, (0, 16)),
        ("15/16", {"SLURM_ARRAY_TASK_ID": "3"}, (15, 16)),
        ("/16", {"SLURM_ARRAY_TASK_ID": "3"}, (3, 16)),
        ("/16", {"JOB_COMPLETION_INDEX": "7", "SLURM_ARRAY_TASK_ID": ""}, (7, 16)),
        ("plan/16", {}, (None, 16)),
    ],
)
def test_a_share_is_typed_or_named_by_the_scheduler(
    typed: str, environment: dict[str, str], read: tuple[int | None, int]
) -> None:
    share = share_of(typed, environment)

    assert (share.index, share.n_shares) == read


def test_the_counts_of_an_array_that_was_submitted_again_are_not_read() -> None:
    again = {"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "9"}

    assert share_of("/16", again).index == 9


@pytest.mark.parametrize(
    ("typed", "environment", "told"),
    [
        ("16/16", {}, r"share 16 of 16, but shares are counted from 0 to 15\. .*--array=0-15\."),
        ("/16", {"SLURM_ARRAY_TASK_ID": "16"}, r"^SLURM_ARRAY_TASK_ID=16 asks for share 16 of 16"),
        ("/16", {}, r"JOB_COMPLETION_INDEX, but neither is set\. .* like --share 0/16"),
        (
            "/16",
            {"SLURM_ARRAY_TASK_ID": "1", "JOB_COMPLETION_INDEX": "2"},
            "but SLURM_ARRAY_TASK_ID=1, JOB_COMPLETION_INDEX=2",
        ),
        ("/16", {"SLURM_ARRAY_TASK_ID": "٣"}, "must be a whole number"),
        ("3", {}, r"'3', but must be I/N"),
        ("-1/3", {}, "must be I/N"),
        ("0/0", {}, "N from 1 to 99999"),
        ("0/100000", {}, "N from 1 to 99999"),
        ("plans/4", {}, "must be I/N"),
        ("ray/", {}, "must be I/N, .* or /N, plan/N or ray/N"),
        ("", {}, "must be I/N"),
    ],
)
def test_a_share_that_does_not_exist_is_refused(
    typed: str, environment: dict[str, str], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        share_of(typed, environment)


@pytest.mark.parametrize(("n_shares", "n_blocks"), [(1, 7), (2, 7), (7, 7), (24, 7), (3, 3000)])
def test_shares_follow_one_another_and_hold_every_block_once(n_shares: int, n_blocks: int) -> None:
    ranges = [blocks_of_share(i, n_shares, n_blocks) for i in range(n_shares)]

    assert [block for r in ranges for block in range(*r)] == list(range(n_blocks))
    sizes = {stop - first for first, stop in ranges}
    assert max(sizes) - min(sizes) <= 1


def test_missing_shares_are_written_as_slurm_takes_them() -> None:
    assert array_of([7, 0, 1, 3, 2, 9, 10]) == "0-3,7,9-10"
    assert array_of([]) == ""

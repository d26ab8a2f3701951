"""What stays of a retired segment: how many rows it had and how many were sampled, after any frame."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shadow_mlops.domain.errors import CorruptFrameError
from shadow_mlops.eventlog.columns import Form, Tag, pack_columns, unpack_columns
from shadow_mlops.eventlog.frames import FrameKind, pack_frame
from shadow_mlops.eventlog.layout import SegmentHeader, crc_seed

_MAX_RUNS_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Tombstone:
    """Rows of a retired segment as runs; neighbouring frames wholly or not at all sampled are one run.

    Attributes
    ----------
    runs
        uint32 (k, 2): rows and sampled rows of each run, in order.
    """

    runs: NDArray[np.uint32]

    @classmethod
    def of(cls, frames: Iterable[tuple[int, int]]) -> Tombstone:
        """From rows and sampled rows of each frame, in order.

        >>> Tombstone.of([(3, 3), (2, 2), (4, 1), (1, 0)]).runs.tolist()
        [[5, 5], [4, 1], [1, 0]]
        """
        runs: list[list[int]] = []
        for rows, sampled in frames:
            if runs and sampled in (0, rows) and runs[-1][1] == (runs[-1][0] if sampled else 0):
                runs[-1][0] += rows
                runs[-1][1] += sampled
            else:
                runs.append([rows, sampled])
        return cls(np.array(runs, dtype=np.uint32).reshape(-1, 2))

    @property
    def rows(self) -> int:
        """Rows of the segment."""
        return int(self.runs[:, 0].sum())

    def sampled_after(self, row: int) -> int:
        """Sampled rows from a row that begins a frame to the segment's end.

        >>> Tombstone.of([(3, 3), (2, 2), (4, 1), (1, 0)]).sampled_after(3)
        3
        """
        behind = np.cumsum(self.runs[:, 0], dtype=np.int64) - row
        return int(np.minimum(self.runs[:, 1], np.maximum(behind, 0)).sum())

    def pack(self, header: SegmentHeader, monotonic_ns: int) -> bytes:
        """Content of the file that takes the place of the segment's."""
        data = zlib.compress(self.runs.astype("<u4").tobytes(), 6)
        return header.pack() + pack_frame(
            crc_seed(header.name.segment),
            FrameKind.TOMBSTONE,
            pack_columns([(Tag.RUNS, Form.DEFLATED_UINT32, data)]),
            first=0,
            monotonic_ns=monotonic_ns,
            rows=self.rows,
            sampled=int(self.runs[:, 1].sum()),
        )

    @classmethod
    def unpack(cls, body: memoryview) -> Tombstone:
        """From the body of a tombstone frame.

        Raises
        ------
        CorruptFrameError
            If it is none.
        """
        form, data = unpack_columns(body).get(Tag.RUNS, (0, memoryview(b"")))
        inflate = zlib.decompressobj()
        try:
            raw = inflate.decompress(data, _MAX_RUNS_BYTES)
        except zlib.error as error:
            raise CorruptFrameError(f"the runs of a tombstone: {error}") from error
        if form != Form.DEFLATED_UINT32 or not inflate.eof or len(raw) % 8:
            raise CorruptFrameError("the runs of a tombstone are incomplete")
        return cls(np.frombuffer(raw, "<u4").reshape(-1, 2))

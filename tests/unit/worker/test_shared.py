"""Laws of the memory that workers of one host share: only the right file is mapped, it only grows, nothing stays."""

from __future__ import annotations

import os
import resource
import tempfile
from pathlib import Path

import numpy as np
import pytest

from cordee.worker.shared import HEAD_BYTES, Outbox, Window


def test_a_window_shows_what_is_put_into_the_outbox_however_it_grows() -> None:
    outbox = Outbox()
    window = Window(os.getpid(), outbox.fd, outbox.nonce)
    try:
        for nbytes in (HEAD_BYTES + 10, HEAD_BYTES + 1_000_000, HEAD_BYTES + 20):
            outbox.memory(nbytes)[HEAD_BYTES:] = np.arange(nbytes - HEAD_BYTES) % 251
            np.testing.assert_array_equal(window.memory(nbytes), outbox.memory(nbytes))
            assert window.memory(nbytes).size == nbytes
    finally:
        window.close()
        outbox.close()


def test_another_file_is_not_mapped() -> None:
    outbox, other = Outbox(), Outbox()
    reader, writer = os.pipe()
    try:
        with tempfile.TemporaryFile() as file:
            for fd in (file.fileno(), reader):
                with pytest.raises(ValueError, match="not an outbox"):
                    Window(os.getpid(), fd, outbox.nonce)
        with pytest.raises(ValueError, match="not the outbox that was offered"):
            Window(os.getpid(), other.fd, outbox.nonce)
        with pytest.raises(OSError, match="No such file"):
            Window(os.getpid(), 10**6, outbox.nonce)
        unsealed = os.memfd_create("cordee", os.MFD_CLOEXEC)
        with pytest.raises(ValueError, match="could shrink"):
            Window(os.getpid(), unsealed, outbox.nonce)
        os.close(unsealed)
    finally:
        for fd in (reader, writer):
            os.close(fd)
        outbox.close()
        other.close()


def test_an_outbox_cannot_shrink_under_its_readers() -> None:
    outbox = Outbox()
    try:
        outbox.memory(3 * HEAD_BYTES)
        with pytest.raises(PermissionError):
            os.ftruncate(outbox.fd, HEAD_BYTES)
    finally:
        outbox.close()


def test_closing_unmaps_and_refusals_leave_nothing_open() -> None:
    def held() -> tuple[int, int]:
        maps = Path("/proc/self/maps").read_text()
        return len(list(Path("/proc/self/fd").iterdir())), maps.count("memfd:cordee")

    before = held()
    outbox = Outbox()
    window = Window(os.getpid(), outbox.fd, outbox.nonce)
    with pytest.raises(ValueError, match="offered"):
        Window(os.getpid(), outbox.fd, bytes(32))
    assert held()[1] == before[1] + 2
    window.close()
    outbox.close()
    assert held() == before


def test_an_outbox_that_cannot_grow_is_a_lack_of_memory() -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    outbox = Outbox()
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (HEAD_BYTES, limits[1]))
        with pytest.raises(MemoryError, match="no 1,000,000 bytes of shared memory"):
            outbox.memory(1_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert outbox.memory(1_000_000).size == 1_000_000
    outbox.close()

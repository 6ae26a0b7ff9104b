"""Sealed frames cannot be changed, moved to another key, or forged."""

import pytest

from forge_otel._internal.frames import DamagedFrame, FrameFormat

FORMAT = FrameFormat(magic=b"TST1", domain=b"test\0", header_bytes=8, compress_above_bytes=1024)
SECRET = b"0123456789abcdef"
HEADER = b"12345678"


@pytest.mark.parametrize("payload", [b"", b"{}", b"x" * 100_000])
def test_a_sealed_payload_is_read_back(payload: bytes) -> None:
    """Small and large, plain and deflated, with its header."""
    frame = FORMAT.seal(payload, key="k", secret=SECRET, header=HEADER)
    assert FORMAT.unseal(frame, key="k", secret=SECRET) == (HEADER, payload)


def test_a_large_payload_is_deflated() -> None:
    """100 kB of one letter take less than 1 kB."""
    assert len(FORMAT.seal(b"x" * 100_000, key="k", secret=SECRET, header=HEADER)) < 1024


def test_a_flipped_bit_anywhere_is_noticed() -> None:
    """Magic, MAC, codec, header and payload alike."""
    frame = FORMAT.seal(b'{"at":1}', key="k", secret=SECRET, header=HEADER)
    for place in range(len(frame)):
        flipped = bytearray(frame)
        flipped[place] ^= 1
        with pytest.raises(DamagedFrame):
            FORMAT.unseal(bytes(flipped), key="k", secret=SECRET)


def test_a_cut_frame_is_noticed() -> None:
    """At every length."""
    frame = FORMAT.seal(b'{"at":1}', key="k", secret=SECRET, header=HEADER)
    for length in range(len(frame)):
        with pytest.raises(DamagedFrame):
            FORMAT.unseal(frame[:length], key="k", secret=SECRET)


def test_another_key_secret_or_domain_is_refused() -> None:
    """A frame is bound to all three."""
    other = FrameFormat(magic=b"TST1", domain=b"other\0", header_bytes=8, compress_above_bytes=1024)
    frame = FORMAT.seal(b"{}", key="k", secret=SECRET, header=HEADER)
    for form, key, secret in ((FORMAT, "l", SECRET), (FORMAT, "k", b"another secret!!"), (other, "k", SECRET)):
        with pytest.raises(DamagedFrame):
            form.unseal(frame, key=key, secret=secret)


def test_a_payload_that_inflates_too_far_is_refused() -> None:
    """A small frame cannot fill the memory."""
    wide = FrameFormat(magic=b"TST1", compress_above_bytes=10)
    narrow = FrameFormat(magic=b"TST1", compress_above_bytes=10, max_payload_bytes=1000)
    frame = wide.seal(b"x" * 1001, key="k", secret=SECRET)
    with pytest.raises(DamagedFrame, match="too large"):
        narrow.unseal(frame, key="k", secret=SECRET)

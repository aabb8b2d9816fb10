"""Recordings: every kind of WAV, other kinds through soundfile, other rates, and what is no recording."""

from __future__ import annotations

import builtins
import struct
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmtune.data.forms.audio import Length, check_recording, length_of, read, resampled
from llmtune.data.forms.values import BadValue

RATE = 8000
TONE_N = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)


def raw_wav(path: Path, code: int, bits: int, data: bytes, *, channels: int = 1, extensible: bool = False) -> Path:
    """A WAV file byte by byte, with a chunk before the samples that nobody asks for."""
    block = channels * bits // 8
    head = struct.pack("<HHIIHH", 0xFFFE if extensible else code, channels, RATE, RATE * block, block, bits)
    if extensible:
        head += struct.pack("<HHIH", 22, bits, 0, code) + bytes(14)
    other = b"LIST" + struct.pack("<I", 3) + b"abc\0"
    body = b"WAVEfmt " + struct.pack("<I", len(head)) + head + other + b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path


def samples_as(code: int, bits: int) -> bytes:
    if code == 3:
        return TONE_N.astype(f"<f{bits // 8}").tobytes()
    if bits == 8:
        return np.round(TONE_N * 127 + 128).astype(np.uint8).tobytes()
    whole_N = np.round(TONE_N.astype(np.float64) * (2 ** (bits - 1) - 1)).astype("<i4")
    return b"".join(struct.pack("<i", value)[: bits // 8] for value in whole_N)


@pytest.mark.parametrize(("code", "bits"), [(1, 8), (1, 16), (1, 24), (1, 32), (3, 32), (3, 64)])
@pytest.mark.parametrize("extensible", [False, True])
def test_every_plain_kind_of_wav_is_read(tmp_path: Path, code: int, bits: int, extensible: bool) -> None:
    path = raw_wav(tmp_path / "a.wav", code, bits, samples_as(code, bits), extensible=extensible)
    assert length_of(path) == Length(RATE, RATE)
    assert length_of(path).seconds == 1.0
    np.testing.assert_allclose(read(path, RATE), TONE_N, atol=2 / 2 ** min(bits, 16))


def test_the_standard_library_reads_and_writes_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((2, 2, RATE, 0, "NONE", ""))
        both_N2 = np.round(np.stack([TONE_N, 0 * TONE_N], axis=1) * 32767).astype("<i2")
        file.writeframes(both_N2.tobytes())
    np.testing.assert_allclose(read(path, RATE), TONE_N / 2, atol=1e-4)  # channels are averaged
    assert length_of(path).samples == RATE


def test_a_stream_without_a_true_size_is_read_to_its_end(tmp_path: Path) -> None:
    path = raw_wav(tmp_path / "a.wav", 1, 16, samples_as(1, 16))
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(bytes(content))
    assert length_of(path).samples == len(read(path, RATE)) == RATE


@pytest.mark.parametrize("wanted", [16000, 6000, 11025])
def test_another_rate_keeps_the_sound(wanted: int) -> None:
    found_N = resampled(TONE_N, RATE, wanted)
    assert found_N.dtype == np.float32
    assert len(found_N) == int(np.ceil(RATE * wanted / RATE))
    true_N = 0.5 * np.sin(2 * np.pi * 440 * np.arange(wanted) / wanted)
    inside = slice(wanted // 20, -wanted // 20)
    np.testing.assert_allclose(found_N[inside], true_N[inside], atol=5e-3)


def test_what_a_lower_rate_can_not_hold_is_left_out_and_not_folded_back() -> None:
    high_N = np.sin(2 * np.pi * 3500 * np.arange(RATE) / RATE).astype(np.float32)
    assert np.abs(resampled(high_N, RATE, 4000)[200:-200]).max() < 0.01


def test_reading_ends_where_it_is_told(tmp_path: Path) -> None:
    path = raw_wav(tmp_path / "a.wav", 1, 16, samples_as(1, 16))
    assert len(read(path, 16000, 1234)) == 1234


@pytest.mark.parametrize("ending", ["flac", "ogg"])
def test_other_kinds_are_read_through_soundfile(tmp_path: Path, ending: str) -> None:
    soundfile = pytest.importorskip("soundfile")
    path = tmp_path / f"a.{ending}"
    soundfile.write(str(path), TONE_N, RATE)
    assert length_of(path) == Length(RATE, RATE)
    np.testing.assert_allclose(read(path, RATE), TONE_N, atol=1e-4 if ending == "flac" else 0.05)


def test_kinds_of_wav_that_are_not_plain_are_left_to_soundfile(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    path = tmp_path / "a.wav"
    soundfile.write(str(path), TONE_N, RATE, subtype="ULAW")
    np.testing.assert_allclose(read(path, RATE), TONE_N, atol=0.02)


def test_without_soundfile_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(b"fLaC" + bytes(40))
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "soundfile":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BadValue, match=r"a\.flac \(flac\) needs the package soundfile: pip install 'llmtune\[speech"):
        length_of(path)


def test_what_is_no_recording_says_why(tmp_path: Path) -> None:
    pytest.importorskip("soundfile")
    empty, text, silent = (tmp_path / name for name in ("empty.wav", "text.wav", "silent.wav"))
    empty.write_bytes(b"")
    text.write_text("this is a text and no recording at all, whatever its name says")
    raw_wav(silent, 1, 16, b"")
    for path, reason in (
        (tmp_path / "none.wav", "no file"), (empty, r"is empty \(0 bytes\)"), (tmp_path, "is a folder|can't be read"),
        (text, "is no recording that can be read"), (silent, r"holds no sound \(0 samples\)"),
    ):  # fmt: skip
        with pytest.raises(BadValue, match=reason):
            check_recording({"audio": str(path)})


def test_samples_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    path = raw_wav(tmp_path / "a.wav", 3, 32, np.array([0.1, np.nan], dtype="<f4").tobytes())
    with pytest.raises(BadValue, match="no numbers"):
        read(path, RATE)

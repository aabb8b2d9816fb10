"""Recordings: how long one is, without decoding it, and its samples in mono at the rate that a model takes.

WAV is read here, by numpy alone; FLAC, OGG, MP3 and the rarer kinds of WAV by the package soundfile, which comes with
`pip install 'llmtune[speech]'`.

Legend: N samples, C channels.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from llmtune.data.forms.values import BadValue

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif")
"""endings of files that are taken for recordings"""
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
"""format codes of WAV; the last one says that the true code stands further behind"""


class Length(NamedTuple):
    samples: int
    """of one channel"""
    rate: int
    """samples a second"""

    @property
    def seconds(self) -> float:
        return self.samples / self.rate


class _Wav(NamedTuple):
    code: int
    channels: int
    rate: int
    bits: int
    start: int
    """of the samples, in bytes"""
    size: int
    """of the samples, in bytes"""

    @property
    def frame_bytes(self) -> int:
        return self.channels * self.bits // 8


def length_of(path: Path) -> Length:
    """How long a recording is; no more than its header is read.

    Raises:
        BadValue: there is no such file, it is no recording that can be read here, or nothing is in it.
    """
    found = _opened(path, _wav_length, _other_length)
    if not found.samples or not found.rate:
        raise BadValue(f"the recording {path.name} holds no sound (0 samples)")
    return found


def read(path: Path, rate: int, most_samples: int | None = None) -> np.ndarray:
    """A recording as fp32 within -1 and 1, at `rate` samples a second: (N,). Channels are averaged.

    Args:
        most_samples: at `rate`; what comes after them is left out.

    Raises:
        BadValue: as `length_of`; also where samples are damaged or no numbers.
    """
    samples_NC, found_rate = _opened(path, _wav_samples, _other_samples)
    if not len(samples_NC):
        raise BadValue(f"the recording {path.name} holds no sound (0 samples)")
    samples_N: np.ndarray = samples_NC.mean(axis=1, dtype=np.float32)
    if not np.isfinite(samples_N).all():
        raise BadValue(f"the recording {path.name} has samples that are no numbers")
    return resampled(samples_N, found_rate, rate)[:most_samples]


def resampled(samples_N: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """The same sound at another rate, through scipy's polyphase filter (no aliases): fp32."""
    if rate == wanted:
        return samples_N.astype(np.float32, copy=False)
    from scipy.signal import resample_poly

    common = math.gcd(rate, wanted)
    return resample_poly(samples_N, wanted // common, rate // common).astype(np.float32)


def check_recording(values: Mapping[str, str | None]) -> None:
    """Raises BadValue: the recording of a row can't be read. Of it no more than the header is looked at."""
    length_of(Path(values["audio"] or ""))


def _opened(path: Path, of_wav: Callable[[BinaryIO, _Wav], Any], of_other: Callable[[Path], Any]) -> Any:
    """What one of the two makes of a file: the first of WAV with plain samples, else the second."""
    try:
        if os.path.getsize(path) == 0:
            raise BadValue(f"the recording {path.name} is empty (0 bytes)")
        with path.open("rb") as file:
            header = _wav_header(file)
            if header is not None:
                return of_wav(file, header)
    except FileNotFoundError:
        raise BadValue(f"no file {path}") from None
    except IsADirectoryError:
        raise BadValue(f"{path} is a folder") from None
    except OSError as error:
        raise BadValue(f"{path} can't be read: {error.strerror}") from None
    return of_other(path)


def _wav_header(file: BinaryIO) -> _Wav | None:
    """Where the samples of a WAV file are and of what kind; None where soundfile is to be asked."""
    head = file.read(12)
    if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return None
    kind: tuple[int, int, int, int] | None = None
    while len(chunk := file.read(8)) == 8:
        name, size = struct.unpack("<4sI", chunk)
        if name == b"data":
            return None if kind is None else _Wav(*kind, *_present(file, size))
        body = file.read(size + size % 2)
        if name == b"fmt ":
            kind = _kind_of(body)
            if kind is None:
                return None
    return None


def _kind_of(body: bytes) -> tuple[int, int, int, int] | None:
    """(code, channels, rate, bits) out of the chunk `fmt `; None for those that are left to soundfile."""
    if len(body) < 16:
        return None
    code, channels, rate, _, _, bits = struct.unpack("<HHIIHH", body[:16])
    if code == EXTENSIBLE and len(body) >= 26:
        code = struct.unpack("<H", body[24:26])[0]
    plain = (code == PCM and bits in (8, 16, 24, 32)) or (code == FLOAT and bits in (32, 64))
    return (code, channels, rate, bits) if plain and channels and rate else None


def _present(file: BinaryIO, size: int) -> tuple[int, int]:
    """Where the samples begin and how many bytes are there: programs that stream write no true size."""
    start = file.tell()
    return start, min(size, os.fstat(file.fileno()).st_size - start)


def _wav_length(file: BinaryIO, header: _Wav) -> Length:
    return Length(header.size // header.frame_bytes, header.rate)


def _wav_samples(file: BinaryIO, header: _Wav) -> tuple[np.ndarray, int]:
    """samples_NC in fp32, and their rate."""
    file.seek(header.start)
    raw = file.read(header.size // header.frame_bytes * header.frame_bytes)
    flat: np.ndarray
    if header.code == FLOAT:
        flat = np.frombuffer(raw, f"<f{header.bits // 8}").astype(np.float32)
    elif header.bits == 8:  # the only kind without a sign
        flat = np.frombuffer(raw, np.uint8).astype(np.float32) / 128 - 1
    elif header.bits == 24:
        bytes_N3 = np.frombuffer(raw, np.uint8).reshape(-1, 3)
        whole_N4 = np.zeros((len(bytes_N3), 4), np.uint8)
        whole_N4[:, 1:] = bytes_N3
        flat = whole_N4.view("<i4")[:, 0].astype(np.float32) / 2**31
    else:
        flat = np.frombuffer(raw, f"<i{header.bits // 8}").astype(np.float32) / 2 ** (header.bits - 1)
    return flat.reshape(-1, header.channels), header.rate


def _soundfile(path: Path) -> Any:
    try:
        import soundfile
    except (ImportError, OSError):  # the latter: the library that it wraps is not there
        kind = path.suffix.lower().lstrip(".") or "this"
        raise BadValue(
            f"{path.name} ({kind}) needs the package soundfile: pip install 'llmtune[speech]' (plain WAV needs none)"
        ) from None
    return soundfile


def _other_length(path: Path) -> Length:
    soundfile = _soundfile(path)
    try:
        found = soundfile.info(str(path))
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise _unreadable(path, error) from None
    return Length(int(found.frames), int(found.samplerate))


def _other_samples(path: Path) -> tuple[np.ndarray, int]:
    soundfile = _soundfile(path)
    try:
        samples_NC, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise _unreadable(path, error) from None
    return samples_NC, int(rate)


def _unreadable(path: Path, error: Exception) -> BadValue:
    reason = str(error).rsplit(": ", 1)[-1].strip().rstrip(".") or type(error).__name__
    return BadValue(f"{path.name} is no recording that can be read ({reason})")

"""Writes the recordings of the built-in speech data: a few words, said by a small formant synthesiser.

`python scripts/make_speech.py [FOLDER]` writes FOLDER/{train,validation,test}.jsonl and FOLDER/clips/*.wav (8 kHz,
8 bits, mono; default: llmtune/samples/spoken_words). The same program writes the same bytes. A word is a row of sounds:
voiced ones are harmonics of the speaker's pitch under three moving formants, the others are noise within a band.
"""

from __future__ import annotations

import json
import sys
import wave
from pathlib import Path

import numpy as np

RATE = 8000
HERE = Path(__file__).parents[1] / "llmtune" / "samples" / "spoken_words"

VOWELS = {
    "a": (750, 1250, 2500), "e": (520, 1850, 2500), "i": (300, 2250, 2950), "o": (480, 900, 2400),
    "u": (320, 800, 2300), "y": (300, 1900, 2250), "r": (450, 1250, 1650), "l": (350, 1100, 2700),
    "n": (280, 1500, 2500), "m": (260, 950, 2250), "v": (260, 1250, 2300), "w": (300, 700, 2200),
    "j": (280, 2150, 2900),
}  # fmt: skip
"""voiced sounds: the formants in Hz of a speaker of middle size"""
NOISES = {"s": (2900, 3950), "f": (1200, 3900), "t": (2200, 3900), "k": (1300, 2200), "h": (500, 2800)}
"""sounds of breath: the band in Hz"""
SHORT = set("tk")
"""noises that are a silence and then a burst"""
QUIET = set("nmvwjlr")

WORDS = {
    "zero": "s i r o", "one": "w a n", "two": "t u", "three": "f r i", "four": "f o r", "five": "f a i v",
    "six": "s i k s", "seven": "s e v n", "eight": "e i t", "nine": "n a i n", "links": "l i n k s", "halt": "h a l t",
}  # fmt: skip
"""spelling -> sounds; the last two are German"""
SPEAKERS = [(95, 1.0, 1.0), (125, 0.96, 0.9), (165, 1.07, 1.1), (205, 1.14, 1.0)]
"""pitch in Hz, size of the formants, speed"""
SPLITS = {"train": 184, "validation": 30, "test": 30}


def sound(
    name: str, around: tuple[str, str], speaker: tuple[float, float, float], rng: np.random.Generator
) -> np.ndarray:
    """One sound with the way from the one before and to the next: (samples,)."""
    pitch, size, speed = speaker
    if name in NOISES:
        seconds = (0.05 if name in SHORT else 0.075) * rng.uniform(0.85, 1.15) / speed
        burst = _noise(NOISES[name], int(RATE * seconds * (0.5 if name in SHORT else 1.0)), rng)
        return np.concatenate([np.zeros(int(RATE * seconds * 0.5)), burst]) if name in SHORT else burst
    seconds = (0.045 if name in QUIET else 0.085) * rng.uniform(0.85, 1.15) / speed
    count = int(RATE * seconds)
    own = np.array(VOWELS[name]) * size * rng.uniform(0.97, 1.03, 3)
    before, after = (np.array(VOWELS.get(one, VOWELS[name])) * size for one in around)
    at = np.linspace(0, 1, count)[:, None]
    formants_N3 = own + (before - own) * np.clip(0.5 - 2 * at, 0, 0.5) + (after - own) * np.clip(2 * at - 1.5, 0, 0.5)
    pitch_N = pitch * (1 + 0.06 * np.sin(2 * np.pi * (at[:, 0] + rng.uniform()))) * rng.uniform(0.97, 1.03)
    phase_N = 2 * np.pi * np.cumsum(pitch_N) / RATE
    wave_N = np.zeros(count)
    for number in range(1, int(0.48 * RATE / pitch) + 1):
        gaps_N3 = (number * pitch_N[:, None] - formants_N3) / np.array([90, 110, 170])
        strength_N = (np.array([1.0, 0.6, 0.35]) / (1 + gaps_N3**2)).sum(1) / number**0.3
        wave_N += strength_N * np.sin(number * phase_N)
    return wave_N * (0.55 if name in QUIET else 1.0) * _edges(count, 0.006)


def _noise(band: tuple[int, int], count: int, rng: np.random.Generator) -> np.ndarray:
    spectrum = np.fft.rfft(rng.standard_normal(count))
    hertz = np.fft.rfftfreq(count, 1 / RATE)
    spectrum[(hertz < band[0]) | (hertz > band[1])] = 0
    return 0.9 * np.fft.irfft(spectrum, count) * _edges(count, 0.008)


def _edges(count: int, seconds: float) -> np.ndarray:
    """A window that rises and falls within `seconds`."""
    steps = np.minimum(np.arange(count), np.arange(count)[::-1]) / (RATE * seconds)
    return np.clip(steps, 0, 1)


def clip(words: list[str], speaker: tuple[float, float, float], rng: np.random.Generator) -> np.ndarray:
    """The words one after another, with a little hiss: (samples,), within -1 and 1."""
    parts = [np.zeros(int(RATE * rng.uniform(0.01, 0.04)))]
    for word in words:
        sounds = WORDS[word].split()
        for place, name in enumerate(sounds):
            around = (sounds[max(0, place - 1)], sounds[min(len(sounds) - 1, place + 1)])
            parts.append(sound(name, around, speaker, rng))
        parts.append(np.zeros(int(RATE * rng.uniform(0.03, 0.06))))
    samples = np.concatenate(parts)
    samples = samples / np.abs(samples).max() * rng.uniform(0.5, 0.95)
    return np.clip(samples + 0.004 * rng.standard_normal(len(samples)), -1, 1)


def write_wav(path: Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(RATE)
        file.writeframes((np.round(samples * 127) + 128).astype(np.uint8).tobytes())


def sentences(total: int, rng: np.random.Generator) -> list[list[str]]:
    """So many different rows of one to three words, each word about equally often."""
    names, found, bag = list(WORDS), [], []
    seen: set[tuple[str, ...]] = set()
    while len(found) < total:
        count = int(rng.choice([1, 2, 3], p=[0.04, 0.56, 0.4]))
        if len(bag) < count:
            bag += [names[i] for i in rng.permutation(len(names))]
        words = tuple(bag[:count])
        bag = bag[count:]
        if words not in seen and len(set(words)) == len(words):
            seen.add(words)
            found.append(list(words))
    return found


def main(folder: Path) -> None:
    rng = np.random.default_rng(20)
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    said = sentences(sum(SPLITS.values()), rng)
    number = 0
    for split, count in SPLITS.items():
        lines = []
        for _ in range(count):
            speaker = number % len(SPEAKERS)
            name = f"clips/{split}_{number:03d}.wav"
            write_wav(folder / name, clip(said[number], SPEAKERS[speaker], rng))
            lines.append(json.dumps({"audio": name, "transcript": " ".join(said[number]), "speaker": speaker}))
            number += 1
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)

"""Spoken words on a small device: a binary network on spectrograms of words that are made here.

There is no recording that may be carried along, so words are synthesised as Klatt's vowels are (Klatt
1980): a voice of harmonics, shaped by three formants that glide from one vowel to the next, with a
consonant's noise in front. Ten words of two syllables, many voices: pitch, length of the vocal tract,
tempo, loudness and noise vary, and the test voices are lower and higher than those of training. A word is a
picture of 32 times by 32 frequencies.

    sound[t] = sum_k a_k(t) sin(2 pi k f0 t),   a_k from the formants (F1, F2, F3) at that moment

What it stands for is the articles' scenario (speech recognition on IoT devices by binarization), not speech.
"""

import numpy as np
import torch

from compresslab.data import Examples
from compresslab.longer.experiment import Experiment, Finding, Rows, grow, reached
from compresslab.measure import disk_bytes
from compresslab.models import VGGLike
from compresslab.runtime.convert import convert
from compresslab.techniques.binarize import XnorNet
from compresslab.techniques.distill import Distillation, cached
from compresslab.techniques.ptq import quantize_post_training
from compresslab.techniques.quantizer import QuantConfig
from compresslab.training import evaluate

RATE, FRAMES, BANDS, HOP, WINDOW = 8000, 32, 32, 128, 256
VOWELS = {
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (270, 2290, 3010),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
}
"""Formants in hertz of men's vowels: Peterson and Barney 1952, table II."""
WORDS = ("ta-i", "ta-u", "si-a", "si-o", "to-e", "so-a", "tu-i", "su-e", "te-o", "se-u")
EPOCHS = 8


def say(word: str, generator: np.random.Generator, pitch: tuple[float, float]) -> np.ndarray:
    """One word by one voice: float32 [samples], a little over half a second."""
    first, second = word[1], word[3]
    count = HOP * (FRAMES + 1) + WINDOW
    time = np.arange(count) / RATE
    tract = generator.uniform(0.85, 1.2)
    f0 = generator.uniform(*pitch) * (1 + 0.1 * generator.uniform(-1, 1) * time / time[-1])
    turn = generator.uniform(0.4, 0.6) * time[-1]
    glide = 1 / (1 + np.exp(-(time - turn) / generator.uniform(0.015, 0.04)))
    one, other = (np.array(VOWELS[v])[:, None] * tract for v in (first, second))
    formants = one + (other - one) * glide
    phase = 2 * np.pi * np.cumsum(f0) / RATE
    sound = np.zeros(count)
    for k in range(1, int(RATE / 2 / pitch[0])):
        frequency = k * f0
        if frequency.min() > RATE / 2:
            break
        level = sum(1 / (1 + ((frequency - f) / 90) ** 2) for f in formants)
        sound += np.where(frequency < RATE / 2, level / k**0.5, 0) * np.sin(k * phase)
    begin = generator.uniform(0.02, 0.1)
    noise = generator.normal(size=count)
    if word[0] == "t":  # a burst
        consonant = np.exp(-((time - begin) ** 2) / 2e-5)
    else:  # a hiss, which is high
        consonant = ((time > begin) & (time < begin + 0.09)).astype(float)
        noise = np.diff(noise, prepend=0.0)
    voiced = (
        1
        / (1 + np.exp(-(time - begin - 0.1) / 0.01))
        / (1 + np.exp((time - 0.92 * time[-1]) / 0.02))
    )
    sound = sound / np.abs(sound).max() * voiced + 0.5 * consonant * noise
    sound *= generator.uniform(0.5, 1.0)
    return (sound + generator.uniform(0.01, 0.08) * generator.normal(size=count)).astype(np.float32)


def spectrogram(sound: np.ndarray) -> np.ndarray:
    """Log power in 32 bands of equal width at 32 moments, scaled to 0..1: float32 [bands, frames]."""
    frames = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::HOP][:FRAMES]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW), axis=1))[:, 1:] ** 2
    bands = power.reshape(FRAMES, BANDS, -1).mean(2)
    levels = np.log(bands + 1e-4)
    return ((levels - levels.min()) / (levels.max() - levels.min() + 1e-6)).T.astype(np.float32)


def spoken(count: int, seed: int, pitches: tuple[tuple[float, float], ...]) -> Examples:
    """So many words, by voices whose pitch lies in one of the ranges."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, len(WORDS), count)
    pictures = [
        spectrogram(say(WORDS[label], generator, pitches[generator.integers(len(pitches))]))
        for label in labels
    ]
    return Examples(torch.from_numpy(np.stack(pictures))[:, None], torch.from_numpy(labels))


def run(seed: int, size: int) -> Rows:
    """The same shape in floats, int8 and bits; the binary one is taught by the floats."""
    train = spoken(size, seed, ((110, 180),))
    test = spoken(max(100, size // 3), seed + 500, ((90, 110), (180, 230)))
    shape, classes, widths = (1, BANDS, FRAMES), len(WORDS), (16, 32, 64)
    floats = grow(lambda: VGGLike(shape, classes, widths), train, EPOCHS, 0.1, seed)
    lesson = Distillation(cached(floats, train.x), 0.1, 4.0)
    binary = grow(
        lambda: XnorNet(shape, classes, widths),
        *(train, 2 * EPOCHS, 0.02, seed),
        loss=lesson,
        optimizer=lambda n: torch.optim.Adam(n.parameters(), 0.02),
    )
    found = {
        "floats": floats,
        "int8": convert(quantize_post_training(floats, QuantConfig(), train.x[:200])),
        "bits (XNOR)": convert(binary),
    }
    return {
        name: {"file, kB": disk_bytes(network) / 1e3, "test accuracy, %": evaluate(network, test)}
        for name, network in found.items()
    }


EXPERIMENT = Experiment(
    question="Ten made-up words, voices that it never heard: is a binary network enough for a small device?",
    run=run,
    size=1_500,
    findings=(
        Finding(
            "int8 costs less than a point",
            lambda r: 1 - (reached(r, "floats") - reached(r, "int8")),
            "points",
        ),
        Finding(
            "The binary network loses less than 4 points",
            lambda r: 4 - (reached(r, "floats") - reached(r, "bits (XNOR)")),
            "points",
        ),
        Finding(
            "The binary network's file is less than half of int8's",
            lambda r: r["int8"]["file, kB"] / r["bits (XNOR)"]["file, kB"] - 2,
            "times",
        ),
    ),
    note="Synthesised words: the scenario, not speech.",
)

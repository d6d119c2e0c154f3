"""Sound: the logarithm of a recording's energy in mel bands, two windows to a vector (20 ms).

    log10 max(mel(|FFT(hann(25 ms))|^2), 1e-10), every 10 ms, at most 8 below its largest, then (x + 4) / 4

as Whisper has it (Radford et al. 2022, arXiv:2212.04356, section 2.2), with mel bands in Slaney's form. Neighbouring
windows are put side by side, as in Omni-AVSR's audio branch by its encoder's stride. Files: WAV, PCM of 8 to 32 bits;
channels are averaged.
"""

import logging
import wave
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from weft.tasks.inputs import contract

WINDOW, HOP = 0.025, 0.010
"""Seconds."""
STACKED = 2
"""Windows in a vector."""

_log = logging.getLogger(__name__)


class Settings(contract.InputSettings):
    """Settings of sound."""

    sample_rate: int = Field(default=16000, ge=4000)
    """Samples a second that features are made of; a recording of another rate is resampled, which is said once."""
    mels: int = Field(default=40, ge=1)
    """Mel bands."""


class Audio(contract.Input):
    """Recordings as WAV files."""

    settings_type: ClassVar[type[contract.InputSettings]] = Settings
    settings: Settings

    @property
    def size(self) -> int:
        return STACKED * self.settings.mels

    def steps(self, path: Path, where: str) -> int:
        try:
            with wave.open(str(path), "rb") as file:
                samples, rate, width = file.getnframes(), file.getframerate(), file.getsampwidth()
        except FileNotFoundError:
            raise ValueError(
                f"{where}: no recording {path}; paths are relative to the data's folder"
            ) from None
        except (wave.Error, EOFError, OSError) as error:
            raise ValueError(
                f"{where}: {path} cannot be read as WAV ({error or 'it ends early'}); give PCM of 8 to 32 bits, as "
                "`ffmpeg -i FILE -c:a pcm_s16le FILE.wav` writes it"
            ) from None
        own, hop = self.settings.sample_rate, self._hop
        if rate != own:
            _say_resampled(rate, own)
        count = -(-samples * own // rate)
        if width not in (1, 2, 3, 4) or count <= self._window:
            raise ValueError(
                f"{where}: {path} has {samples} samples at {rate} Hz, less than a window of {1000 * WINDOW:g} ms"
            )
        return contract.pooled_steps(1 + count // hop, STACKED)

    def features(self, path: Path) -> np.ndarray:
        return self.of_samples(*read_wav(path))

    def of_samples(self, samples: np.ndarray, rate: int) -> np.ndarray:
        """The vectors of a recording in memory: (samples,) between -1 and 1, at `rate` samples a second."""
        bands = self.log_mel(resampled(samples, rate, self.settings.sample_rate))
        rest = -len(bands) % STACKED
        # The last window twice: silence behind a recording would be a sound of its own.
        bands = np.concatenate([bands, bands[-1:].repeat(rest, axis=0)])
        return bands.reshape(-1, self.size)

    def log_mel(self, samples: np.ndarray) -> np.ndarray:
        """(windows, mels), float32."""
        window, hop, bins = self._window, self._hop, self._bins
        padded = np.pad(samples.astype(np.float64), window // 2, mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
        # Periodic, as for a spectrum.
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
        power = np.abs(np.fft.rfft(frames * hann, n=bins, axis=1)) ** 2
        mel = power @ _filters(bins, self.settings.mels, self.settings.sample_rate)
        bands = np.log10(np.maximum(mel, 1e-10))
        return ((np.maximum(bands, bands.max() - 8.0) + 4.0) / 4.0).astype(np.float32)

    @property
    def _window(self) -> int:
        # Even, so that there are as many samples before its middle as behind.
        return 2 * round(WINDOW * self.settings.sample_rate / 2)

    @property
    def _hop(self) -> int:
        return round(HOP * self.settings.sample_rate)

    @property
    def _bins(self) -> int:
        """Of the Fourier transform: the next power of two."""
        return 1 << (self._window - 1).bit_length()


def read_wav(path: Path) -> tuple[np.ndarray, int]:
    """Samples between -1 and 1, channels averaged, (samples,); and how many a second there are.

    Raises:
        ValueError: If the file is damaged.
    """
    try:
        with wave.open(str(path), "rb") as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            raw = file.readframes(file.getnframes())
    except (wave.Error, EOFError, OSError) as error:
        raise ValueError(f"{path} cannot be read as WAV ({error})") from None
    bytes_ = np.frombuffer(raw[: len(raw) - len(raw) % (width * channels)], np.uint8)
    if width == 1:
        # Eight bits are unsigned, all others signed.
        whole = bytes_.astype(np.int64) - 128
    else:
        parts = bytes_.reshape(-1, width).astype(np.int64)
        whole = (parts << (8 * np.arange(width))).sum(1)
        whole -= (whole >> (8 * width - 1)) << (8 * width)
    return (whole / 2 ** (8 * width - 1)).reshape(-1, channels).mean(1), rate


def write_wav(path: Path, samples: np.ndarray, rate: int) -> None:
    """Samples between -1 and 1, what is beyond cut off, as 16 bits, one channel."""
    whole = np.clip(np.round(samples * 2**15), -(2**15), 2**15 - 1).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(whole.tobytes())


def resampled(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """The same sound at another rate, (ceil(samples * wanted / rate),), by scipy's polyphase filter.

    Raises:
        ValueError: If the rates differ and scipy is not installed.
    """
    if rate == wanted:
        return samples
    try:
        from scipy.signal import resample_poly
    except ModuleNotFoundError:
        raise ValueError(
            f"a recording of {rate} Hz is resampled to {wanted} Hz by scipy: pip install 'weft[inputs]', or set the "
            f"task's options: encoders: {{audio: {{sample_rate: {rate}}}}}"
        ) from None
    shared = int(np.gcd(rate, wanted))
    return np.asarray(resample_poly(samples, wanted // shared, rate // shared))


@cache
def _filters(bins: int, mels: int, rate: int) -> np.ndarray:
    """(bins / 2 + 1, mels)."""
    from transformers.audio_utils import mel_filter_bank  # slow to import

    return mel_filter_bank(
        bins // 2 + 1, mels, 0.0, rate / 2, rate, norm="slaney", mel_scale="slaney"
    )


@cache
def _say_resampled(rate: int, wanted: int) -> None:
    _log.warning(
        "recordings of %d Hz are resampled to %d Hz; set the task's options: encoders: {audio: {sample_rate: %d}} to "
        "take them as they are",
        rate,
        wanted,
        rate,
    )

"""Recordings and pictures as vectors: against transformers' own spectrogram, and pixel by pixel."""

import logging
import struct
import wave
from pathlib import Path

import numpy as np
import pytest
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from weft.tasks.inputs import audio, image, inputs
from weft.tasks.inputs.contract import pooled_steps, rate_at, rates_of, stamp_of

RATE = 8000


def reader(**settings: int) -> audio.Audio:
    return audio.Audio(audio.Settings(sample_rate=RATE, mels=20, **settings))


@pytest.fixture
def samples() -> np.ndarray:
    return 0.3 * np.random.default_rng(0).normal(size=3333)


def test_log_mel_is_that_of_transformers(samples: np.ndarray) -> None:
    filters = mel_filter_bank(129, 20, 0.0, RATE / 2, RATE, norm="slaney", mel_scale="slaney")
    theirs = spectrogram(
        samples,
        window_function(200, "hann"),
        frame_length=200,
        hop_length=80,
        fft_length=256,
        power=2.0,
        mel_filters=filters,
        log_mel="log10",
    ).T
    expected = (np.maximum(theirs, theirs.max() - 8) + 4) / 4
    # Theirs is rounded to single precision at every frame.
    np.testing.assert_allclose(reader().log_mel(samples), expected, atol=1e-5)


@pytest.mark.parametrize("length", [201, 640, 799, 800, 1599, 1600, 3333])
@pytest.mark.parametrize("rate", [8000, 16000, 11025])
def test_the_header_tells_how_many_vectors_there_are(
    length: int, rate: int, tmp_path: Path
) -> None:
    count = length * rate // RATE + 1
    audio.write_wav(tmp_path / "a.wav", np.sin(np.arange(count) / 5), rate)
    own = reader()
    assert own.steps(tmp_path / "a.wav", "row") == len(own.features(tmp_path / "a.wav"))


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_samples_of_every_width_are_read(width: int, tmp_path: Path) -> None:
    whole = [0, 1, -1, 2 ** (8 * width - 1) - 1, -(2 ** (8 * width - 1)), 5]
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(width)
        file.setframerate(RATE)
        for value in whole:
            raw = struct.pack("<q", value + 128 if width == 1 else value)[:width]
            file.writeframes(raw + raw)
    found, rate = audio.read_wav(tmp_path / "a.wav")
    assert rate == RATE
    np.testing.assert_array_equal(found, np.array(whole) / 2 ** (8 * width - 1))


def test_a_recording_of_another_rate_is_resampled_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    time = np.arange(6000)
    audio.write_wav(tmp_path / "slow.wav", 0.5 * np.sin(2 * np.pi * 440 * time / 8000), 8000)
    audio.write_wav(
        tmp_path / "fast.wav", 0.5 * np.sin(2 * np.pi * 440 * np.arange(18000) / 24000), 24000
    )
    own = reader()
    with caplog.at_level(logging.WARNING):
        own.steps(tmp_path / "fast.wav", "row")
        own.steps(tmp_path / "fast.wav", "row")
        own.steps(tmp_path / "slow.wav", "row")
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert "24000 Hz are resampled to 8000 Hz" in said[0]
    slow, fast = own.features(tmp_path / "slow.wav"), own.features(tmp_path / "fast.wav")
    assert slow.shape == fast.shape
    loud = slow.argmax(1)
    np.testing.assert_array_equal(loud[2:-2], fast.argmax(1)[2:-2])


@pytest.mark.parametrize("content", [b"", b"RIFF", b"no sound at all, but a text", None])
def test_what_is_no_recording_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^rows\.jsonl:3: .*a\.wav"):
        reader().steps(path, "rows.jsonl:3")


def test_less_than_a_window_is_refused(tmp_path: Path) -> None:
    audio.write_wav(tmp_path / "a.wav", np.zeros(150), RATE)
    with pytest.raises(ValueError, match="150 samples at 8000 Hz, less than a window of 25 ms"):
        reader().steps(tmp_path / "a.wav", "row")


def test_patches_go_down_each_column() -> None:
    pixels = np.arange(8 * 12).reshape(8, 12) / 96
    own = image.Image(image.Settings(height=8, patch=4))
    found = own.of_pixels(pixels)
    assert found.shape == (6, 16)
    for at in range(6):
        column, row = divmod(at, 2)
        square = pixels[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        np.testing.assert_allclose(found[at], 2 * square.ravel() - 1, atol=1e-6)


def test_pictures_and_arrays_read_alike(tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image")
    grey = np.random.default_rng(0).integers(0, 256, size=(8, 14)).astype(np.uint8)
    pillow.fromarray(grey).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", grey)
    np.save(tmp_path / "b.npy", (grey / 255).astype(np.float32))
    own = image.Image(image.Settings(height=8, patch=4))
    found = [own.features(tmp_path / name) for name in ("a.png", "a.npy", "b.npy")]
    assert found[0].shape == (8, 16)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], found[2], atol=1e-6)
    # Filled up with black.
    assert (found[0].reshape(4, 2, 4, 4)[-1, :, :, 2:] == -1).all()
    half = image.Image(image.Settings(height=4, patch=4))
    for name in ("a.png", "a.npy"):
        assert half.steps(tmp_path / name, "row") == 2 == len(half.features(tmp_path / name))


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    own = image.Image(image.Settings(height=8, patch=4))
    (tmp_path / "a.png").write_text("no picture")
    np.save(tmp_path / "a.npy", np.zeros(3))
    for name in ("a.png", "a.npy", "b.npy", "b.png"):
        with pytest.raises(ValueError, match=rf"^row 3: .*{name}"):
            own.steps(tmp_path / name, "row 3")


def test_a_file_that_changes_is_read_anew(tmp_path: Path) -> None:
    own, path = image.Image(image.Settings(height=8, patch=4)), tmp_path / "a.npy"
    np.save(path, np.zeros((8, 8), np.float32))
    first = own.kept(str(path), stamp_of(path))
    assert own.kept(str(path), stamp_of(path)) is first
    np.save(path, np.ones((8, 16), np.float32))
    assert len(own.kept(str(path), stamp_of(path))) == 8


def test_rates_are_drawn_uniformly_and_by_the_step_alone() -> None:
    draws = [rate_at("audio", [4, 16], seed=3, step=step) for step in range(10_000)]
    # Three standard deviations of a fair coin thrown as often.
    assert abs(draws.count(4) - 5000) < 150
    assert draws[:50] == [rate_at("audio", [4, 16], seed=3, step=step) for step in range(50)]
    others = [rate_at("image", [4, 16], seed=3, step=step) for step in range(10_000)]
    assert abs(sum(one == other for one, other in zip(draws, others, strict=True)) - 5000) < 150


def test_a_shorter_rest_is_a_token_of_its_own() -> None:
    counts = [pooled_steps(steps, 4) for steps in (1, 3, 4, 5, 8, 9)]
    assert counts == [1, 1, 1, 2, 2, 3]


def test_kinds_of_input_have_encoders_of_their_names() -> None:
    from weft.model.encoders import encoders

    assert inputs.names() == encoders.names()


def test_rates_on_a_command_line() -> None:
    assert rates_of(["audio=16", "image=5"]) == {"audio": 16, "image": 5}
    assert rates_of(None) is None
    for wrong in ("audio", "audio=", "=4", "audio=-1", "audio=two"):
        with pytest.raises(ValueError, match="expected an input and its rate"):
            rates_of([wrong])


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="height 30 is no multiple of patch 8"):
        image.Image(image.Settings(height=30, patch=8))
    with pytest.raises(ValueError, match="kernel must be odd"):
        reader(kernel=4)

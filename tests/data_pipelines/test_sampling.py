"""The rules of choice, against plain restatements, on random clips: even and uneven times, short and long."""

from bisect import bisect_right
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.sampling import (
    CUT,
    DENSITY,
    Sampling,
    SamplingError,
    at_rate,
    centres,
    choose,
    labels,
    sampling_of,
    scenes,
    shown_at,
)

# Frames are shown at whole hundredths of a second, from 0 on: exact to compare, and further apart than readers' noise.
GAPS = st.lists(st.integers(1, 300), min_size=0, max_size=120)
FRAMES = st.integers(1, 40)


def clip(gaps: list[int]) -> np.ndarray:
    return np.cumsum([0, *gaps]) / 100


def last_of(times: np.ndarray) -> Fraction:
    """When the clip ends, its last frame as long as the average of the others."""
    exact = [Fraction(round(t * 100), 100) for t in times]
    return exact[-1] + (exact[-1] / (len(exact) - 1) if len(exact) > 1 else 0)


@settings(deadline=None)
@given(st.integers(1, 5000), st.integers(1, 64))
def test_centres_stand_in_the_middle_of_equal_intervals(total, frames):
    chosen = centres(total, frames)
    if total <= frames:
        assert chosen == list(range(total))
        return
    assert len(chosen) == frames
    for k, index in enumerate(chosen):  # the interval's middle lies within the frame [index, index + 1)
        assert 0 <= (k + 0.5) * total / frames - index < 1 + 1e-9
    assert chosen == sorted(set(chosen))


SAMPLINGS = st.builds(
    Sampling,
    max_frames=FRAMES,
    fps=st.none() | st.floats(0.01, 60),
    start=st.just(0.0) | st.integers(0, 300).map(lambda n: n / 100),
    end=st.none() | st.integers(301, 9000).map(lambda n: n / 100),
)


@settings(deadline=None)
@given(GAPS, SAMPLINGS, st.booleans())
def test_whatever_the_rule_frames_ascend_and_are_no_more_than_asked_for(gaps, sampling, by_scenes):
    times = clip(gaps)
    if by_scenes:
        sampling = Sampling(max_frames=sampling.max_frames, start=sampling.start, end=sampling.end, scenes=True)
    if sampling.start >= last_of(times) and sampling.start > 0:
        with pytest.raises(SamplingError, match="start .* lies behind its end"):
            choose(times, sampling)
        return
    chosen = choose(times, sampling)
    assert chosen and chosen == sorted(set(chosen)) and 0 <= chosen[0] and chosen[-1] < len(times)
    assert len(chosen) <= sampling.max_frames * (DENSITY if by_scenes else 1)
    end = np.inf if sampling.end is None else sampling.end
    inside = [i for i, t in enumerate(times) if sampling.start <= t <= end]
    if inside:
        assert set(chosen) <= set(inside)
        if sampling.max_frames >= len(times) and sampling.fps is None:
            assert chosen == inside  # both ends included
    else:
        assert chosen == [bisect_right(times.tolist(), sampling.start) - 1]  # what is on the screen meanwhile


@settings(deadline=None)
@given(GAPS, st.integers(1, 4000), st.integers(0, 200), st.none() | st.integers(201, 3000))
def test_fps_takes_the_frames_on_the_screen_at_its_moments(gaps, fps_in_hundredths, start, end):
    """Moment by moment in exact fractions; a moment before the first frame of the stretch is that frame's."""
    times, fps = clip(gaps), Fraction(fps_in_hundredths, 100)
    start, end = Fraction(start, 100), None if end is None else Fraction(end, 100)
    if start >= last_of(times) and start > 0:
        return
    inside = [i for i, t in enumerate(times) if start <= Fraction(round(t * 100), 100) <= (end or 10**9)]
    if not inside:
        return
    exact = [Fraction(round(times[i] * 100), 100) for i in inside]
    expected, k = [0], 1
    while start + k / fps < last_of(times) and (end is None or start + k / fps <= end):
        expected.append(max(bisect_right(exact, start + k / fps) - 1, 0))
        k += 1
    near = [abs(start + j / fps - t) for j in range(k + 1) for t in [*exact, last_of(times), end or last_of(times)]]
    if any(0 < gap < Fraction(2, 1000) for gap in near):
        return  # within the tolerance for readers' rounding
    sampling = Sampling(max_frames=10**6, fps=float(fps), start=float(start), end=None if end is None else float(end))
    assert choose(times, sampling) == [inside[i] for i in sorted(set(expected))]


@settings(deadline=None)
@given(GAPS, st.floats(0.05, 30), FRAMES)
def test_fps_is_honoured_and_capped(gaps, fps, frames):
    times = clip(gaps)
    free = choose(times, Sampling(max_frames=10**6, fps=fps))
    capped = choose(times, Sampling(max_frames=frames, fps=fps))
    assert capped == [free[i] for i in centres(len(free), frames)]
    assert free[0] == 0 and len(free) <= float(last_of(times)) * fps + 1
    widest = max(np.diff(times), default=0)  # a frame may begin that long before its moment
    assert all(times[b] - times[a] >= 1 / fps - widest - 2e-3 for a, b in zip(free, free[1:]))


def test_a_rate_above_the_clips_own_takes_every_frame_once():
    times = np.arange(40) / 25
    for fps in (25, 26, 1000, 1e12):
        assert at_rate(times, fps, 0.0, 1.6) == list(range(40))
    assert at_rate(times, 5, 0.0, 1.599) == [0, 5, 10, 15, 20, 25, 30, 35]
    assert at_rate(np.array([0.0]), 5, 0.0, -0.001) == [0]


@settings(deadline=None)
@given(GAPS, st.lists(st.integers(0, 4000), min_size=1, max_size=16))
def test_timestamps_take_the_frames_on_the_screen(gaps, moments):
    times, seconds = clip(gaps), [m / 100 for m in moments]
    sampling = Sampling(timestamps=tuple(seconds))
    late = [s for s, m in zip(seconds, moments) if Fraction(m, 100) > last_of(times)]
    shown = [bisect_right(times.tolist(), s) - 1 for s in seconds if s not in late]
    if late:
        with pytest.raises(SamplingError, match=r"timestamp .* lies behind its end"):
            choose(times, sampling)
        if not shown:
            return
    assert (
        choose(times, sampling, cut_off=True)
        == sorted(set(shown))
        == shown_at(times, sorted(set(seconds) - set(late)))
    )


@settings(deadline=None)
@given(st.lists(st.floats(0, 255), max_size=150), FRAMES)
def test_every_scene_has_a_frame_and_none_is_wasted(changes, frames):
    changes, total = np.array(changes), len(changes) + 1
    chosen = scenes(changes, frames)
    assert len(chosen) == min(frames, total) and chosen == sorted(set(chosen))
    assert 0 <= chosen[0] and chosen[-1] < total
    cuts = [i for i in range(total - 1) if changes[i] >= CUT]
    if len(cuts) < frames:
        borders = [0, *(i + 1 for i in cuts), total]
        assert all(any(a <= i < b for i in chosen) for a, b in zip(borders, borders[1:]))


@given(st.integers(1, 400), FRAMES)
def test_a_clip_without_scenes_is_sampled_uniformly(total, frames):
    assert scenes(np.full(total - 1, CUT - 1), frames) == centres(total, frames)


def test_a_long_scene_gets_the_frames_that_short_ones_leave():
    changes = np.zeros(99)
    changes[[9, 19]] = 200  # scenes of 10, 10 and 80 frames
    assert scenes(changes, 3) == [5, 15, 60]
    assert scenes(changes, 6) == [5, 15, 30, 50, 70, 90]
    changes[59] = 100  # with two frames only the largest change counts, the first of equal ones
    assert scenes(changes, 2) == [5, 55]


BAD = [
    ({"max_frames": 0}, "the number of video frames must be at least 1, not 0"),
    ({"max_frames": True}, "at least 1, not True"),
    ({"max_pixels": 0.5}, "max_pixels must be at least 1, not 0.5"),
    ({"fps": float("nan")}, "fps must be a positive number, not nan"),
    ({"fps": 0}, "fps must be a positive number, not 0"),
    ({"raw_fps": "25"}, "raw_fps must be a positive number, not '25'"),
    ({"start": float("nan")}, "start must be a number of seconds from 0 on, not nan"),
    ({"start": -1}, "not -1"),
    ({"end": float("inf")}, "end must be a number of seconds from 0 on, not inf"),
    ({"start": 3, "end": 3}, "start 3 s must lie before end 3 s"),
    ({"start": 5, "end": 3}, "start 5 s must lie before end 3 s"),
    ({"timestamps": []}, "timestamps must be a list of seconds"),
    ({"timestamps": 3}, "timestamps must be a list of seconds"),
    ({"timestamps": [1, float("nan")]}, "a timestamp must be a number of seconds from 0 on, not nan"),
    ({"timestamps": [1, -2]}, "not -2"),
    ({"timestamps": [1], "fps": 2}, "fps and timestamps exclude each other"),
    ({"timestamps": [1], "end": 2}, "timestamps and start and end exclude each other"),
    ({"scenes": True, "fps": 2}, "fps and scenes exclude each other"),
    ({"scenes": "yes"}, "scenes must be true or false"),
]


@pytest.mark.parametrize("given_settings, says", BAD)
def test_impossible_samplings_are_refused(given_settings, says):
    with pytest.raises(SamplingError) as caught:
        Sampling(**given_settings)
    assert says in str(caught.value) and str(caught.value).isprintable()


def test_more_timestamps_than_frames_are_refused():
    with pytest.raises(SamplingError, match="3 timestamps, but max_frames is 2"):
        choose([0, 1, 2, 3], Sampling(max_frames=2, timestamps=(0, 1, 2)))


def test_a_parts_own_settings_prevail_and_its_rule_takes_the_place_of_the_runs():
    run = Sampling(max_frames=64, fps=2, start=1, end=9)
    assert sampling_of({"type": "video", "fps": None}, run) == run
    assert sampling_of({"max_frames": 4, "end": 5}, run) == Sampling(4, 2, 1, 5)
    assert sampling_of({"scenes": True}, run) == Sampling(64, None, 1, 9, scenes=True)
    assert sampling_of({"timestamps": [3]}, run) == Sampling(64, timestamps=(3,))
    assert sampling_of({"start": 2}, Sampling(timestamps=(1, 2))) == Sampling(start=2)


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=20, unique=True).map(sorted))
def test_labels_tell_times_apart_and_read_back(milliseconds):
    found = labels([m / 1000 for m in milliseconds])
    assert len(set(found)) == len(found)
    for label, exact in zip(found, milliseconds):
        whole, _, decimals = label.partition(".")
        seconds = sum(int(field) * 60**i for i, field in enumerate(reversed(whole.split(":"))))
        assert seconds * 1000 + int(decimals.ljust(3, "0") or 0) == exact - exact % 10 ** (3 - len(decimals))
    assert labels([0, 3, 62.9, 3723]) == ["0:00", "0:03", "1:02", "1:02:03"]
    assert labels([0, 0.5, 1.04]) == ["0:00.0", "0:00.5", "0:01.0"]

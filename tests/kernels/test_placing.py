"""Where a packed row's numbers belong, by both ways of every processor."""

import os
import subprocess
import sys

import numpy as np
import pytest
from llvmlite.binding import get_host_cpu_features
from numba import njit

from kvlab.kernels import packed_rows, placing, simd

AVX2 = "+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+popcnt,+sse4.2,+sse4.1,+ssse3,+lzcnt,+movbe"


def bitmap_of(places_RN, width):
    is_kept = np.zeros((len(places_RN), width), bool)
    np.put_along_axis(is_kept, places_RN, True, axis=1)
    return np.packbits(is_kept, axis=1, bitorder="little").reshape(-1)


@pytest.mark.parametrize(("width", "kept"), [(8, 3), (72, 72), (128, 1), (256, 200)])
def test_a_bitmaps_ones_and_indices_tell_the_same_places(width, kept):
    rng = np.random.default_rng(width)
    channels = rng.permuted(np.tile(np.arange(width), (5, 1)), axis=1)
    chosen = np.sort(channels[:, :kept])
    scratch = np.empty(3 * kept + 8, placing.PLACE)
    by_index = packed_rows.places_in(chosen.astype(np.uint8).reshape(-1), kept, 1, 3, 0, scratch)
    by_index = by_index.copy()
    bitmap = bitmap_of(chosen, width)
    by_bitmap = packed_rows.places_in(bitmap, kept, 1, 3, width // 8, scratch)
    assert (by_index == 16 * chosen[1:4].reshape(-1)).all()
    assert (by_bitmap == by_index).all()


def test_nothing_is_read_behind_the_last_row():
    values = np.arange(40, dtype=np.int16)
    scratch = np.empty(4 + simd.WIDE, np.int16)
    inside = packed_rows.with_room(values, 8, 4, scratch)
    assert np.shares_memory(inside, values) and inside.tolist() == [8, 9, 10, 11]
    last = packed_rows.with_room(values, 36, 4, scratch)
    assert np.shares_memory(last, scratch) and last.tolist() == [36, 37, 38, 39]


def check_spreading():
    """All bytes of a bitmap, from a place that is not the first, in each kind of number."""
    wide, out = simd.WIDE, np.empty(simd.LANES * simd.WIDE, np.float32)
    for stored in (np.float32, np.float16):
        numbers = np.arange(1, wide + 4, dtype=stored)
        seen = numbers if stored is np.float32 else numbers.view(np.int16)
        for bits in range(256):
            mask = bits | (bits ^ 0xA5) << 8 if wide == 16 else bits
            want, at = np.zeros(wide), 3
            for channel in range(wide):
                if mask >> channel & 1:
                    want[channel] = numbers[at]
                    at += 1
            spread_out(seen, np.uint64(mask), out)
            assert (out.reshape(simd.LANES, wide) == want).all(), (stored, bits)


@njit
def spread_out(numbers, bits, out):
    simd.store(out, 0, simd.for_all(placing.spread(numbers, 3, bits)))


def test_numbers_are_put_where_their_bits_stand():
    check_spreading()


# an AVX2 machine, and one that has neither, where the kernel must compile all the same
@pytest.mark.parametrize(("cpu", "lacks"), [("haswell", ()), ("ivybridge", ("+avx2", "+fma"))])
@pytest.mark.skipif(not get_host_cpu_features().get("avx2"), reason="needs AVX2")
def test_without_avx_512_they_come_there_too(cpu, lacks):
    code = (
        "from kvlab.kernels import placing, simd\n"
        f"assert not placing.AT_ONCE and placing.SPREADS == {not lacks} and simd.WIDE == 8\n"
        "from test_placing import check_spreading\n"
        "check_spreading()\n"
    )
    features = ",".join(name for name in AVX2.split(",") if name not in lacks)
    env = os.environ | {
        "NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features,
        "PYTHONPATH": os.path.dirname(__file__),
    }  # fmt: skip
    ran = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr

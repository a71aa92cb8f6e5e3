"""Reading ahead in threads: in order, within bounds, errors raised where they are due, threads that end."""

import threading
import time

import pytest

from cochlea_sb.inference.read_ahead import in_batches, read_ahead


def test_results_come_in_the_order_of_their_sources():
    def read(number):
        time.sleep(0.002 * (number % 3))
        return number

    assert list(read_ahead(read, range(100), threads=7)) == list(range(100))
    assert list(read_ahead(read, [], threads=2)) == []


def test_no_more_is_held_than_allowed():
    held, most, lock = [0], [0], threading.Lock()

    def read(number):
        with lock:
            held[0] += 100
            most[0] = max(most[0], held[0])
        return [number] * 100

    for result in read_ahead(read, range(60), threads=3, limit=500):
        time.sleep(0.001)
        with lock:
            held[0] -= len(result)
    assert 200 <= most[0] <= 500 + 4 * 100 + 100


def test_an_error_is_raised_in_its_turn():
    def read(number):
        if number == 5:
            raise RuntimeError("five")
        return number

    seen = []
    with pytest.raises(RuntimeError, match="five"):
        for number in read_ahead(read, range(50), threads=4):
            seen.append(number)
    assert seen == [0, 1, 2, 3, 4]

    def sources():
        yield 1
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(read_ahead(abs, sources(), threads=2))


def test_threads_end_when_the_reader_has_had_enough():
    before, done = threading.active_count(), []
    results = read_ahead(lambda number: done.append(number) or number, range(10**9), threads=3)
    assert next(results) == 0
    results.close()
    assert threading.active_count() == before and len(done) < 400


def test_python_ends_after_its_threads(script):
    """It aborts if it ends while a thread is in C++, as after an error of the reader."""
    code = """
import os, time
from cochlea_sb.inference.read_ahead import read_ahead
results = read_ahead(lambda number: time.sleep(number / 4) or os.write(1, b"read "), range(9), threads=2)
next(results)
raise SystemExit(0)
"""
    assert script("-c", code).stdout.count("read ") > 1


def test_batches_are_bounded_by_length_and_by_number():
    assert [len(batch) for batch in in_batches(range(600), 1)] == [256, 256, 88]  # numbers have no length
    assert list(in_batches(["abc", "d", "ef"], 3)) == [["abc"], ["d", "ef"]]
    assert list(in_batches([], 3)) == []

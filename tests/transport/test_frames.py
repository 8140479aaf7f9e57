"""Frames: whole ones are given once, however they arrive; others are refused at their header."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.errors import raises_code

from wardround.errors import FederationError
from wardround.transport.frames import FrameReader, Kind, framed


@given(messages=st.lists(st.binary(max_size=40), max_size=4), cuts=st.lists(st.integers(0, 200)))
def test_frames_arrive_whole_and_in_order_however_they_are_cut(messages, cuts):
    stream = b"".join(map(framed, messages))
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    reader, found = FrameReader(40), []
    for start, end in itertools.pairwise(places):
        reader.feed(stream[start:end])
        while (frame := reader.take()) is not None:
            found.append(frame)
    assert found == [(Kind.MESSAGE, message) for message in messages]
    assert not reader.num_held


HOSTILE = {
    "another protocol": b"GET / HTTP/1.1\r\n",
    "one wrong byte": b"W" + b"X",
    "another version": b"WRD\x02",
    "no known kind": framed(b"")[:4] + b"\x09" + bytes(4),
    "a byte too long": framed(bytes(41)),
    "four gigabytes": framed(b"")[:5] + b"\xff" * 4,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_frame_that_is_none_is_refused_at_its_header(name):
    reader = FrameReader(40)
    with raises_code(FederationError, "federation-frame"):
        reader.feed(HOSTILE[name][:9])
        reader.take()


def test_a_content_is_read_only_and_outlives_the_frames_behind_it():
    reader = FrameReader(40)
    reader.feed(framed(b"one") + framed(b"two")[:4])
    one = reader.take()
    reader.feed(framed(b"two")[4:])
    contents = [frame[1] for frame in (one, reader.take()) if frame is not None]
    assert [bytes(content) for content in contents] == [b"one", b"two"]
    assert all(content.readonly for content in contents)

"""The size that a JPEG states, held to Pillow's decoder."""

import io

import pytest
from PIL import Image

from wardround.images.decode.jpeg import size_of_jpeg


def saved(mode="L", size=(37, 21), **options):
    content = io.BytesIO()
    Image.new(mode, size, 7).save(content, "JPEG", **options)
    return content.getvalue()


@pytest.mark.parametrize(("mode", "bands"), [("L", 1), ("RGB", 3), ("CMYK", 4)])
def test_the_size_is_that_of_the_decoded_picture(mode, bands):
    assert size_of_jpeg(saved(mode, comment=b"\xff\xc0 in a comment", quality=5)) == (21, 37, bands)


def test_a_progressive_or_cut_off_stream_states_none():
    content = saved()
    assert size_of_jpeg(saved(progressive=True)) is None
    start = content.index(b"\xff\xc0")
    assert size_of_jpeg(content[: start + 9]) is None
    assert size_of_jpeg(content[:start] + 2 * content[start:]) == (21, 37, 1), (
        "what follows the first scan is not read"
    )
    assert size_of_jpeg(content[:start] + content[start : start + 13] + content[start:]) is None

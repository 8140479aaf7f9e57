"""What the files themselves tell."""

from dataclasses import replace

from PIL import Image

from wardround.images.quality.facts import FileFacts, facts_of_folder


def test_sizes_and_bytes_are_read_from_the_headers_of_a_folder(made, tmp_path):
    Image.new("L", (30, 20)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    made.change(0, file="a.png")
    made.change(1, file="b.png")
    made.root = tmp_path
    facts = facts_of_folder(made.taken())
    assert facts.sizes == {"a.png": (20, 30)}
    assert facts.num_bytes == {"a.png": (tmp_path / "a.png").stat().st_size, "b.png": 10}


def test_a_generated_set_and_an_archive_have_no_facts(made, tmp_path):
    (tmp_path / "set.zip").write_bytes(b"")
    for root in (None, tmp_path / "set.zip"):
        assert facts_of_folder(replace(made.taken(), root=root)) == FileFacts()

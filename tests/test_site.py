"""The site has every page once, and nothing of it comes from another server."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from docs.site_hooks import on_page_markdown

ROOT = Path(__file__).resolve().parents[1]
MKDOCS = shutil.which("mkdocs", path=ROOT / ".venv" / "docs" / "bin")
ELSEWHERE = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^>]*>"
    r"|<link\b(?![^>]*rel=[\"']?canonical)[^>]*href=[\"']?(?:https?:)?//[^>]*>"
    r"|@import[^;]*//[^;]*;|url\([\"']?(?:https?:)?//[^)]*\)"
)


def test_the_navigation_has_every_page_once():
    listed = re.findall(r"^ +- (?:[^:\n]+: )?([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_the_pictures_together_are_small():
    pictures = [path for path in (ROOT / "docs").rglob("*") if path.suffix in (".png", ".svg", ".jpg")]
    assert sum(path.stat().st_size for path in pictures) < 2_000_000


def test_a_font_from_elsewhere_is_noticed():
    assert ELSEWHERE.search('<link rel="stylesheet" href="https://fonts.example.org/css">')
    assert ELSEWHERE.search("src: url(//fonts.example.org/a.woff2)")
    assert not ELSEWHERE.search('<a href="https://doi.org/10.1000/1">')


def test_a_pipe_in_a_table_has_no_backslash_on_the_site():
    page = "| `a \\| b` | c |\n\n    x \\| y\n"
    assert on_page_markdown(page) == "| `a | b` | c |\n\n    x \\| y\n"


def build(folder, **environment):
    """The site in a folder, or the reason for which it is none."""
    command = [MKDOCS, "build", "--strict", "--quiet", "--site-dir", folder]
    environment["NO_MKDOCS_2_WARNING"] = "1"
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.thorough
@pytest.mark.skipif(MKDOCS is None, reason="the site is built by MkDocs, which `make docs` installs")
def test_a_missing_page_in_a_folder_finds_its_files(tmp_path):
    """Where the site has an address; a page's own folder is all that is known without one."""
    build(tmp_path, SITE_URL="https://example.org/docs/")
    files = re.findall(r'\b(?:href|src)="([^"#:]+)[^":]*"', (tmp_path / "404.html").read_text())
    assert files
    assert [file for file in files if not file.startswith("/docs/")] == []
    assert [file for file in files if not (tmp_path / file.removeprefix("/docs/")).exists()] == []


@pytest.mark.thorough
@pytest.mark.skipif(MKDOCS is None, reason="the site is built by MkDocs, which `make docs` installs")
def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path):
    build(tmp_path / "site")
    pages = [*(tmp_path / "site").rglob("*.html"), *(tmp_path / "site").rglob("*.css")]
    assert len(pages) > 20
    assert '<script src="iframe-worker.js">' in (tmp_path / "site" / "index.html").read_text(), "search from disk"
    assert (tmp_path / "site" / "search" / "search_index.js").is_file()
    for page in (tmp_path / "site").glob("*.html"):
        files = re.findall(r'\b(?:href|src)="([^"#:]+)[^":]*"', page.read_text())
        assert files
        assert [file for file in files if not (page.parent / file).exists()] == [], page.name
    assert {str(path): found for path in pages if (found := ELSEWHERE.findall(path.read_text()))} == {}

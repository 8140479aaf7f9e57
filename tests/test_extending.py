"""The page on extending: each of its diffs applies, edits few files, and adds tests that pass in the changed copy."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.cases import family
from tests.patches import Patch, apply, parse

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
COPIED = ("src", "tests", "docs", "examples", "pyproject.toml")
CLOSED = (
    "test_every_room_stands_in_the_dictionary",
    "test_no_module_is_imported_by_what_it_imports",
)
"""Tests of the architecture that hold for the whole tree; the others are one case a file."""


@dataclass(frozen=True)
class Section:
    """One section of the page.

    Attributes:
        most: existing files that it may edit, rows of the documentation apart.
        also: tests of the repository that ask for part of the diff.
        options: of pytest.
    """

    most: int
    also: tuple[str, ...] = ()
    options: tuple[str, ...] = ("--noconftest",)


SECTIONS = {
    "A strategy": Section(
        2,
        (
            "tests/test_docs.py::test_the_page_of_strategies_has_a_row_for_each",
            "tests/test_examples.py::test_every_strategy_has_an_example",
        ),
    ),
    "An image layout": Section(1),
    "A network": Section(
        2,
        (
            "tests/simulation/test_every_network.py::test_the_study_file_knows_every_network",
            "tests/models/test_private_gradients.py::"
            "test_a_network_gives_the_clipped_sum_of_one_patient_backward_passes[mlp]",
        ),
    ),
    "A privacy mechanism": Section(
        4,
        (
            "tests/privacy/plans/test_fit.py::test_every_plan_of_a_study_file_is_here",
            "tests/privacy/plans/test_fit.py::"
            "test_a_study_accepts_a_pair_just_if_the_plan_protects_what_is_asked[laplace-update]",
        ),
        (),  # it takes a study from the shared fixtures
    ),
    "A transport": Section(2),
}


def patches_of(title):
    """Returns the patches of one section of the page."""
    text = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    section = next(part for part in text if part.startswith(f"{title}\n"))
    return parse("\n".join(re.findall(r"^```diff\n(.*?)\n```$", section, flags=re.MULTILINE | re.DOTALL)))


def edited(patches: list[Patch]) -> set[str]:
    """Returns the existing files that patches change, rows of the documentation apart."""
    return {patch.path for patch in patches if not patch.is_new and not patch.path.startswith("docs/")}


def copied(folder):
    """Copies the part of the repository that tests read."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def run(folder, *arguments):
    """Runs a module of Python in the copy, with the copy's package and one thread."""
    environment = os.environ | {"PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_has_a_section_for_each_kind():
    with_diffs = [part.split("\n")[0] for part in re.split(r"^## ", PAGE, flags=re.MULTILINE) if "```diff" in part]
    assert with_diffs == list(SECTIONS)


@pytest.mark.parametrize("title", SECTIONS)
def test_a_section_edits_few_files_and_says_how_many(title):
    patches, anchor = patches_of(title), title.lower().replace(" ", "-")
    new = [patch for patch in patches if patch.is_new and patch.path.startswith("src/")]
    assert len(edited(patches)) <= SECTIONS[title].most
    assert re.search(rf"\(#{anchor}\) \| {len(edited(patches))} \| {len(new)} \|", PAGE)
    assert new, "something is added"


@pytest.mark.parametrize("title", SECTIONS)
def test_the_diffs_of_a_section_apply_and_are_in_style(title, tmp_path):
    for name in {patch.path for patch in patches_of(title) if not patch.is_new}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    apply(patches_of(title), tmp_path)
    python = [patch.path for patch in patches_of(title) if patch.path.endswith(".py")]
    run(tmp_path, "ruff", "format", "--check", *python)
    # Imports are sorted by what lies beside a file, and most of the package is not in this copy.
    run(tmp_path, "ruff", "check", "--no-cache", "--ignore", "I001", *python)


@pytest.mark.thorough
@pytest.mark.parametrize("title", family(SECTIONS, keep={"An image layout"}))
def test_what_a_section_adds_passes_its_tests_in_a_copy(title, tmp_path):
    section, patches, copy = SECTIONS[title], patches_of(title), copied(tmp_path)
    apply(patches, copy)
    tests = [p.path for p in patches if p.is_new and p.path.startswith("tests/")]
    arrows = [f"tests/test_architecture.py::{name}" for name in (*CLOSED, "test_imports_follow_the_arrows")]
    assert tests, "a change without a test"
    options = ("-q", "-m", "", "-p", "no:cacheprovider", *section.options)
    run(copy, "pytest", *options, *tests, *arrows, *section.also)


@pytest.mark.thorough
def test_all_sections_together_pass_the_type_checker(tmp_path):
    copy = copied(tmp_path)
    for title in SECTIONS:
        apply(patches_of(title), copy)
    tests = [patch.path for title in SECTIONS for patch in patches_of(title) if patch.path.startswith("tests/")]
    run(copy, "mypy", "src", *(path for path in tests if path.endswith(".py")))

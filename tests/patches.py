"""Unified diffs, applied strictly: each hunk fits in exactly one place, or nothing is written."""

import re
from dataclasses import dataclass
from pathlib import Path

_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@.*")


class DoesNotApplyError(Exception):
    """A diff that is none, or that a file does not fit."""


@dataclass(frozen=True)
class Hunk:
    """Consecutive lines of a file before and after a change, with those around it."""

    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True)
class Patch:
    """The changes of one file.

    Attributes:
        path: below the root, with `/`.
        is_new: the file is made.
        hunks: in the order of the file.
    """

    path: str
    is_new: bool
    hunks: tuple[Hunk, ...]


def parse(diff: str) -> list[Patch]:
    """Returns the patches of a diff as `git diff` writes it; the lines before `---` of each file may be left out.

    Raises:
        DoesNotApplyError: a line that belongs to no hunk, or a hunk of another length than its header says.
    """
    lines, patches, at = diff.splitlines(), [], 0
    while at < len(lines):
        if (
            not lines[at].startswith("--- ")
            or not lines[at + 1 : at + 2]
            or not lines[at + 1].startswith("+++ b/")
        ):
            raise DoesNotApplyError(f"a file must begin with `--- a/path` and `+++ b/path`, got {lines[at]!r}")
        path, is_new = lines[at + 1].removeprefix("+++ b/"), lines[at] == "--- /dev/null"
        if not is_new and lines[at] != f"--- a/{path}":
            raise DoesNotApplyError(f"a file must keep its name, got {lines[at]!r} for {path}")
        hunks, at = [], at + 2
        while at < len(lines) and (header := _HUNK.fullmatch(lines[at])):
            hunk, at = _hunk(lines, at + 1, int(header[2] or 1), int(header[4] or 1))
            hunks.append(hunk)
        if not hunks or (is_new and (len(hunks) > 1 or hunks[0].before)):
            raise DoesNotApplyError(f"{path} must have hunks, and a new file one without earlier lines")
        patches.append(Patch(path, is_new, tuple(hunks)))
    return patches


def _hunk(lines: list[str], at: int, num_before: int, num_after: int) -> tuple[Hunk, int]:
    before: list[str] = []
    after: list[str] = []
    while (len(before), len(after)) != (num_before, num_after):
        line = lines[at] if at < len(lines) else "end"
        kind, text = line[:1] or " ", line[1:]  # editors strip the blank of an empty line
        if kind not in " +-" or len(before) > num_before or len(after) > num_after:
            raise DoesNotApplyError(
                f"a hunk must have {num_before} lines before and {num_after} after, got {line!r}"
            )
        if kind != "+":
            before.append(text)
        if kind != "-":
            after.append(text)
        at += 1
    return Hunk(tuple(before), tuple(after)), at


def apply(patches: list[Patch], root: Path) -> None:
    """Changes the files below a folder; line numbers are not looked at, as files grow.

    Raises:
        DoesNotApplyError: a file is missing, or there already, or a hunk fits nowhere or in several places.
    """
    files: dict[str, list[str]] = {}
    for patch in patches:
        if patch.is_new:
            if patch.path in files or (root / patch.path).exists():
                raise DoesNotApplyError(f"{patch.path} must be new, and is there")
            files[patch.path] = [*patch.hunks[0].after, ""]
            continue
        if patch.path not in files:
            if not (root / patch.path).is_file():
                raise DoesNotApplyError(f"{patch.path} must be there, and is not")
            files[patch.path] = (root / patch.path).read_text().split("\n")
        for hunk in patch.hunks:
            lines, length = files[patch.path], len(hunk.before)
            places = [k for k in range(len(lines) - length + 1) if tuple(lines[k : k + length]) == hunk.before]
            if len(places) != 1:
                shown = "\n".join(hunk.before)
                raise DoesNotApplyError(f"{patch.path} has {len(places)} places, not one, for:\n{shown}")
            lines[places[0] : places[0] + length] = hunk.after
    for path, lines in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("\n".join(lines))

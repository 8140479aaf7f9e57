"""Commands, study files and Python in the documentation: all of them parse, and those of the pages in `RUN` run.

A block of a page in `RUN` is run as `sh` or `python`, or is written where `title="FILE"` says; blocks of a page share
one folder and run in order. A block of `text` after one of `sh` is what it prints, with other figures.
`<!-- not run: REASON -->` before a block leaves it out. Audits take fewer runs and shadow models than by default, so
that a page takes less than a minute of processor time.
"""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from wardround.cli.main import app
from wardround.config import parse_study
from wardround.config.site import PolicyFile, Site
from wardround.config.sweep import parse_sweep
from wardround.errors import WardroundError
from wardround.inference.page.languages import languages_of

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND: Any = get_command(app)
BASE: dict[str, dict[str, Any]] = {
    "study": {"name": "base"},
    "data": {"layout": "manifest", "path": "."},
    "privacy": {"plan": "dp-sgd", "epsilon": 1.0, "delta": 1e-5},
    "federation": {"strategy": "fedsgd"},
}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file that it is written to, its text, and whether it is left out."""

    language: str
    title: str | None
    text: str
    left_out: bool


def blocks_of(page):
    found = re.finditer(
        r"(?P<out><!-- not run: [^>]+ -->\n)?^```(?P<info>[^\n]*)\n(?P<text>.*?)^```$",
        page,
        re.MULTILINE | re.DOTALL,
    )
    for one in found:
        title = re.search(r'title="([^"]+)"', one["info"])
        language = one["info"].partition(" ")[0]
        yield Block(language, title and title[1], one["text"], one["out"] is not None)


def commands_of(block):
    """The lines that call `wardround`, joined where they go on."""
    text = block.text.replace("\\\n", " ")
    lines = [re.sub(r"^\$ ", "", line.strip()) for line in text.splitlines()]
    return [line for line in lines if line.startswith("wardround ") and line != "wardround "]


def fault_of(line):
    """The reason why a line is no call of a command, by the names of commands and options; None for a call."""
    line = re.sub(r"(?<= )\.\.\.(?= |$)", "", line.split(" > ")[0])  # "and more of the same"
    words = shlex.split(line, comments=True)[1:]
    command, path = COMMAND, "wardround"
    while words and words[0] in getattr(command, "commands", {}):
        path, command = f"{path} {words[0]}", command.commands[words[0]]
        words = words[1:]
        if hasattr(command, "commands"):  # a group may put a default command before the words
            context = command.make_context(path, list(words), resilient_parsing=True)
            words = [*context._protected_args, *context.args] or words
    if not words and getattr(command, "commands", {}) and not command.invoke_without_command:
        return f"{path} is a group"
    try:
        given, rest, _ = command.make_parser(command.context_class(command)).parse_args(words)
    except Exception as error:  # of Click, or of the part of it that Typer brings
        return f"{path}: {error}"
    missing = [one.name for one in command.params if one.required and not _is_given(given.get(one.name))]
    if rest or missing:
        return f"{path} has no place for {rest}, and misses {missing}"
    return None


def _is_given(value):
    """Click stands in for what is missing, by None or by a value of its own."""
    return isinstance(value, str | tuple | list | bool) and value != () and value != []


def check_toml(text, folder):
    tables = tomllib.loads(text.replace('"..."', f'"{"0" * 64}"'))  # a hash, to be filled in
    if "hospital" in tables:
        Site.model_validate(tables)
    elif "policy" in tables:
        PolicyFile.model_validate(tables)
    elif any(isinstance(value, dict) and "always" in value for value in tables.values()):
        (folder / "advice.toml").write_text(text)
        languages_of(folder / "advice.toml", ("clear", "lesion"))
    elif "sweep" in tables:
        parse_sweep({**BASE, **tables})
    else:
        parse_study(completed(tables))


def completed(tables):
    """A study of these tables; of a fragment with what it leaves out."""
    if "study" in tables:
        return tables
    whole = {name: dict(table) for name, table in BASE.items()}
    for name, table in tables.items():
        kept = {} if "plan" in table or "strategy" in table else whole.get(name, {})
        whole[name] = {**kept, **table}
    if "site" in tables:
        del whole["data"]["layout"], whole["data"]["path"]
        whole["site"] = {"layout": "folder", "path": ".", **tables["site"]}
    return whole


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_snippets_of_a_page_parse(path, tmp_path):
    faults = []
    for block in blocks_of(path.read_text(encoding="utf-8")):
        if block.language == "python":
            compile(block.text, path.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        elif block.language == "toml":
            try:
                check_toml(block.text, tmp_path)
            except WardroundError as error:
                faults.append(f"{block.text.splitlines()[0]}: {error}")
        elif block.language in ("", "sh", "console"):
            faults += [f"{line}: {fault}" for line in commands_of(block) if (fault := fault_of(line))]
    assert faults == []


def test_a_command_or_an_option_that_is_gone_is_noticed():
    assert fault_of("wardround run demo.toml --out runs/demo  # as ever") is None
    assert "--quick" in fault_of("wardround run demo.toml --quick")
    assert "study" in fault_of("wardround run --fresh")
    assert "again.toml" in fault_of("wardround run demo.toml again.toml")
    assert fault_of("wardround runn demo.toml") is not None


def a_dicom_export(folder):
    """An export of a PACS: 60 patients with one or two radiographs, files in folders of any name, and a table."""
    from tests.images.dicom.write import write_picture

    from wardround.images.layouts.phantom import CLASS_NAMES, PhantomOptions, draw_phantom, list_phantom

    options = PhantomOptions(patients=60, max_images=2)
    rows = ["patient_id,label"]
    for entry, drawn in zip(list_phantom(options).entries, draw_phantom(options), strict=True):
        write_picture(drawn, folder / "export" / f"{entry.file}.dcm", patient_id=entry.patient)
        rows.append(f"{entry.patient},{CLASS_NAMES[entry.label]}")
    (folder / "export" / "labels.csv").write_text("\n".join(dict.fromkeys(rows)) + "\n")


def a_run(folder):
    """A finished run, `runs/demo`, and what pages call pictures; made as in the tutorial, but small."""
    smaller = "-e 's/patients = 2000/patients = 200/' -e '/^compare/d' -e 's/^rounds = 60/rounds = 20/'"
    call(folder, f"wardround demo\nsed -i {smaller} demo/demo.toml\nwardround run demo/demo.toml")
    call(folder, "cp demo/demo.toml study.toml; cp demo/pictures/clear-1.png picture.png")
    shutil.copytree(folder / "demo" / "pictures", folder / "folder")
    shutil.make_archive(str(folder / "export"), "zip", folder / "demo" / "pictures")


def plainly_a_run(folder):
    """The same, for a page whose commands stand in blocks without a language; the rest of it is not run."""
    a_run(folder)


def nothing(folder):
    """The pages that begin with nothing."""


RUN = {
    "first-study.md": nothing,
    "dicom-export.md": a_dicom_export,
    "own-network.md": nothing,
    "tune.md": nothing,
    "choose-epsilon.md": nothing,
    "read-a-report.md": a_run,
    "predict.md": plainly_a_run,
    "page.md": plainly_a_run,
    "audit.md": plainly_a_run,
}

NAMES = 'import numpy; run, path, array = "runs/demo", "picture.png", numpy.zeros((40, 40), numpy.uint8)\n'
"""What a page's Python may take for known."""

NOT_HERE = r" [A-Z]{3,}\b|http|wardround serve|audit --broken"
"""Commands on a reader's own folder, commands of two parties, and one that tests/audit/test_audit_command.py runs."""


def smaller(line):
    """The command without its comment, with fewer runs where it is an audit."""
    line = line.partition("  #")[0]
    shadows = " --shadows 8" if "--model" in line else ""
    return f"{line} --runs 30{shadows}" if line.startswith("wardround audit ") else line


def call(folder, script, command=("bash", "-euo", "pipefail", "-c")):
    """Returns what a script prints in the folder, with this interpreter's `wardround`, if it ends well."""
    process = start(folder, script, command)
    out, err = process.communicate()
    assert process.returncode == 0, f"{script}\n{out[-1000:]}\n{err[-3000:]}"
    return out


def start(folder, script, command=("bash", "-euo", "pipefail", "-c")):
    programs = folder / ".bin"
    if not programs.exists():
        programs.mkdir()
        for name, module in (("wardround", "-m wardround"), ("python", "")):
            (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
            (programs / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "XDG_STATE_HOME": str(folder / ".state"),
        "OMP_NUM_THREADS": "1",
    }
    pipe = subprocess.PIPE
    return subprocess.Popen([*command, script], cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.thorough
@pytest.mark.parametrize("name", RUN)
def test_the_snippets_of_a_page_run(name, tmp_path):
    from wardround.inference.page.write import RUNTIME

    RUN[name](tmp_path)
    runtime = ROOT / "src" / "wardround" / "inference" / "page" / "runtime"
    has_runtime = all((runtime / file).exists() for file in RUNTIME)
    blocks = list(blocks_of((ROOT / "docs" / name).read_text(encoding="utf-8")))
    if RUN[name] is plainly_a_run:  # such a page may show a file after the command that reads it
        for block in blocks:
            if block.title is not None:
                (tmp_path / block.title).write_text(block.text)
    printed = ""
    for block in blocks:
        if block.language == "text" and printed:
            assert [line for line in block.text.splitlines() if not re.search(shape_of(line), printed)] == []
        printed = ""
        if block.left_out or ("--to page" in block.text and not has_runtime):
            continue
        if block.title is not None:
            (tmp_path / block.title).write_text(block.text)
        elif block.language == "sh":
            printed = call(tmp_path, block.text)
        elif block.language == "python":
            call(tmp_path, NAMES + block.text, ("python", "-c"))
        elif RUN[name] is plainly_a_run:
            for line in commands_of(block) if block.language == "" else ():
                if not re.search(NOT_HERE, line):
                    call(tmp_path, smaller(line))


def shape_of(line):
    """A pattern of a printed line with other figures, or another of the demo's two classes."""
    figures = re.sub(r"[\d.,]*\d", "0", re.sub(r": (clear|lesion) ", ": @ ", line))
    return re.escape(figures).replace("0", r"[\d.,]*\d").replace("@", "(clear|lesion)")


HOSPITALS = ("north", "south", "east")


@pytest.mark.thorough
def test_the_commands_of_the_page_on_deployment_run(tmp_path):
    """Sections 1 to 6, as they stand, for each hospital; with the fingerprint as an option in place of a telephone."""
    blocks = list(blocks_of((ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")))
    site, policy, study = (block.text for block in blocks if block.language == "toml")
    lines = [line.split("  #")[0] for block in blocks if block.language == "" for line in commands_of(block)]

    def of(start):
        return next(line for line in lines if line.startswith(f"wardround {start}"))

    def done(line):
        """Runs a line and returns the fingerprint that it prints, if any."""
        found = re.search(r"^fingerprint: (.*)$", call(tmp_path, line), re.MULTILINE)
        return found and found[1]

    (tmp_path / "study.toml").write_text(study)
    coordinator = done(of("consortium init"))
    prints = {}
    for seed, name in enumerate(HOSPITALS, start=1):
        done(of("consortium invite").replace("north", name))
        prints[name] = done(f"{of('consortium accept').replace('north', name)} --fingerprint '{coordinator}'")
        (tmp_path / name / "site.toml").write_text(
            site.replace("north", name).replace("seed = 1", f"seed = {seed}")
        )
        (tmp_path / name / "policy.toml").write_text(policy)
    for name in HOSPITALS:
        pin = f"{of('consortium pin').replace('north', name)} --fingerprint '{prints[name]}'"
        done(pin)
        for other in HOSPITALS:
            if other != name:
                done(pin.replace("--home consortium", f"--home {other}"))
        done(of("agent review").replace("north", name))
        done(of("agent accept").replace("north", name))
    agent = next(line for line in lines if line.startswith("wardround agent --home"))
    begun = [start(tmp_path, agent.replace("north", name)) for name in HOSPITALS]
    try:
        told = next(block.text for block in blocks if "wardround coordinate" in block.text)
        assert re.findall(r"^epsilon = .*$", told, re.MULTILINE)[0] in call(tmp_path, of("coordinate"))
        assert "epsilon" in call(tmp_path, of("status run"))
        assert "epsilon" in call(tmp_path, "wardround ledger show --ledger north/ledger.sqlite")
    finally:
        for process in begun:
            process.terminate()
            process.communicate()

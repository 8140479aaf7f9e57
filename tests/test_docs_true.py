"""Every page names files, functions, keys and pairs that are there, and links that lead somewhere."""

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest
from docs.make_code_reference import COMMANDS, PYTHON, commands_page, python_page
from docs.make_reference import DESIGN, PAGE, RELEASED, design_page, page, released_page
from tests.plans import strategy_names
from tests.privacy.plans.test_fit import PLANS
from tests.test_architecture import ARROWS

from wardround.agreed.plans import plan_of
from wardround.errors import StudyError

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "wardround"
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
TRUSTS = ("coordinator", "secure-aggregation", "nobody")


def prose_of(path):
    """The text of a page without its blocks of code."""
    return re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


@cache
def names_in(path):
    """Functions, classes and methods of a module, methods as `Class.method`."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


def faults_of(text):
    """Files and functions that a page names in backticks and that are not there."""
    faults = []
    for file, _, name in re.findall(r"`([\w./*-]+\.py)(:([\w.]+))?`", text):
        places = [place for place in (SOURCE / file, ROOT / file) if place.is_file()]
        if not places:
            faults.append(file)
        elif name and name not in names_in(places[0]):
            faults.append(f"{file}:{name}")
    return faults


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_file_and_function_that_a_page_names_exists(path):
    assert faults_of(prose_of(path)) == []


def test_a_file_or_function_that_is_gone_is_noticed():
    text = "`privacy/plan.py`, `hospital/agent.py:Agent.guess`, `hospital/agent.py:Agent.admit`"
    assert faults_of(text) == ["privacy/plan.py", "hospital/agent.py:Agent.guess"]


def anchors_of(path):
    headings = re.findall(r"^#+ (.*)$", prose_of(path), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_within_the_project_leads_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(path)):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), target
        assert not anchor or anchor in anchors_of(there), target


def test_the_index_lists_every_page():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in (ROOT / "docs").glob("*.md") if f"({path.name}" not in index] == ["README.md"]


def test_the_reference_the_arrows_and_the_list_are_up_to_date():
    """`python -m docs.make_reference` writes them."""
    assert PAGE.read_text(encoding="utf-8") == page()
    assert DESIGN.read_text(encoding="utf-8") == design_page()
    assert RELEASED.read_text(encoding="utf-8") == released_page()
    assert COMMANDS.read_text(encoding="utf-8") == commands_page()
    assert PYTHON.read_text(encoding="utf-8") == python_page()


def test_the_design_has_a_row_for_every_room():
    rows = set(re.findall(r"^\| `([\w.]+)/?`", DESIGN.read_text(encoding="utf-8"), flags=re.MULTILINE))
    rows |= {"types"}  # beside errors
    rooms = {name.partition(".")[0] for name in ARROWS}
    assert rooms - {row.removesuffix(".py") for row in rows} == set()


def test_the_first_study_is_the_demo():
    """The tutorial's study, the one in `examples/`, and the one that `wardround demo` writes."""
    example = (ROOT / "examples" / "demo.toml").read_text()
    assert (SOURCE / "cli" / "demo.toml").read_text() == example
    shown = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "first-study.md").read_text(), flags=re.DOTALL)[0]
    told, demo = tomllib.loads(shown), tomllib.loads(example)
    demo["study"].pop("description")
    assert told == demo


def trusts_of(tiny_study, plan, strategy):
    """The trusts under which a study of this pair is accepted; of all that the plan has."""
    own, accepted = PLANS[plan], []
    rounds = None if strategy in ("single-pass", "one-shot") or plan == "output-perturbation" else 4
    for trust in TRUSTS if "trust" in own else (None,):
        try:
            plan_of(
                tiny_study(
                    privacy={"epsilon": None, "plan": plan} | own | {"trust": trust},
                    federation={"strategy": strategy, "rounds": rounds},
                )
            )
        except StudyError:
            continue
        accepted.append(trust)
    return accepted


def test_the_table_of_pairs_says_what_studies_accept(tiny_study):
    """All 14 strategies with all 8 plans, under every trust."""
    whole = (ROOT / "docs" / "strategies.md").read_text(encoding="utf-8")
    text = whole.partition("## Which pairs fit")[2].partition("\n## ")[0]
    rows = [re.findall(r"[^|]+", line) for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip().strip("`") for cell in row] for row in rows]
    plans = cells[0][1:]
    assert set(plans) == set(PLANS)
    assert sorted(row[0] for row in cells[2:]) == sorted(strategy_names())
    surely = dict.fromkeys(PLANS, "fedsgd") | FITS
    most = {plan: trusts_of(tiny_study, plan, strategy) for plan, strategy in surely.items()}
    for strategy, *said in cells[2:]:
        for plan, cell in zip(plans, said, strict=True):
            found = trusts_of(tiny_study, plan, strategy)
            own = [trust for trust in most[plan] if trust != "coordinator"]
            expected = {"all": most[plan], "own": own, "nobody": ["nobody"], "–": []}[cell]
            assert found == expected, (plan, strategy)


FITS = dict.fromkeys(("clipped-update", "sparse-vector", "top-k"), "fedavg") | {"output-perturbation": "one-shot"}
"""A strategy that each plan fits under all of its trusts, where that is not fedsgd."""

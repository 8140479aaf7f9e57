"""The code in the documentation runs."""

import re
from pathlib import Path

import numpy as np
import torch
from torch import nn

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_the_loop_of_the_engine_page_trains():
    code = re.findall(r"```python\n(.*?)```", (DOCS / "engine.md").read_text(), flags=re.DOTALL)[0]
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    images, labels = torch.randn(60, 4), torch.zeros(60, dtype=torch.int64)

    def pictures_of(chosen):
        return images[chosen], labels[chosen], torch.arange(len(chosen))

    names = {
        "public_or_random_pictures": torch.randn(3, 4),
        "model": model, "steps": 3, "num_patients": 60, "pictures_of": pictures_of, "noise_multiplier": 0.5,
        "divisor": np.float32(3.0), "parameters": list(model.parameters()),
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
    }  # fmt: skip
    before = model.weight.detach().clone()
    exec(code, names)  # the page is ours
    assert torch.isfinite(model.weight).all()
    assert not torch.equal(before, model.weight)


def test_the_engine_imports_nothing_of_the_federation():
    import subprocess
    import sys

    code = (
        "import sys, torch; from wardround.per_patient import check_trainable, clipped_sum; "
        "check_trainable(torch.nn.Linear(2, 2), torch.randn(3, 2)); "
        "from wardround.randomness import Randomness, poisson_sample; assert callable(clipped_sum); "
        "loaded = {m.split('.')[1] for m in sys.modules if m.startswith('wardround.')}; "
        "assert loaded <= {'per_patient', 'randomness', 'errors', 'types'}, loaded; "
        "assert not {'typer', 'pydantic', 'jinja2', 'matplotlib', 'PIL', 'torch._dynamo'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_engine_page_names_the_whole_public_surface():
    from wardround import per_patient

    page = (DOCS / "engine.md").read_text()
    assert [name for name in per_patient.__all__ if f"`{name}" not in page] == []


def test_the_page_of_strategies_has_a_row_for_each():
    from tests.plans import strategy_names

    first = (DOCS / "strategies.md").read_text().partition("## Which pairs fit")[0]
    rows = re.findall(r"^\| `([a-z-]+)` \| ", first, flags=re.MULTILINE)
    assert sorted(name for name in rows if name in strategy_names()) == sorted(strategy_names())


def test_the_files_of_the_page_on_deployment_hold_and_the_policy_allows_the_study():
    import tomllib

    from wardround.agreed.plans import plan_of
    from wardround.config import parse_study
    from wardround.config.site import PolicyFile, Site
    from wardround.hospital.allowed import refusals
    from wardround.hospital.opening import check_deployable, check_named

    page = (DOCS / "deploy.md").read_text()
    site, policy, tables = map(tomllib.loads, re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL))
    study, holds = parse_study(tables), Site.model_validate(site)
    assert set(re.findall(r"\b[0-9a-f]{12,64}\b", page)) == {study.digest, study.digest[:12]}
    plan = plan_of(study)
    check_deployable(study, plan, holds)
    assert check_named(study, holds) == 0
    assert not list(refusals(study, plan, PolicyFile.model_validate(policy)))


def test_every_row_of_the_threat_table_names_tests_that_exist():
    page = (DOCS / "deploy.md").read_text()
    rows = page.split("## Threats")[1].split("Not covered")[0].strip().split("\n")[2:]
    named = [re.findall(r"`(tests/[^`]*)`", row) for row in rows]
    assert len(rows) > 10
    assert all(named)
    assert [path for paths in named for path in paths if not (DOCS.parent / path).is_file()] == []


def test_every_row_of_the_tables_on_data_names_tests_that_exist():
    """Rows of `docs/data.md` in tables whose last column is tests; `same` stands for the test of the row above."""
    tables = re.findall(
        r"^\|[^\n]*\| tests \|\n\|[-|]+\|\n((?:\|[^\n]*\n)+)", (DOCS / "data.md").read_text(), re.MULTILINE
    )
    last = [row.strip("| ").split(" | ")[-1] for rows in tables for row in rows.splitlines()]
    named = [re.findall(r"`(tests/[^`]*)`", tests) for tests in last]
    assert len(tables) == 3
    assert len(last) > 40
    assert [tests for tests, paths in zip(last, named, strict=True) if not paths and tests != "same"] == []
    paths = {path for paths in named for path in paths}
    assert [path for path in sorted(paths) if not _holds_tests(DOCS.parent / path)] == []


def _holds_tests(path):
    files = [path] if path.is_file() else sorted(path.glob("**/test_*.py"))
    return any("def " in file.read_text() for file in files)


def test_the_code_of_the_page_on_prediction_runs(finished, tmp_path, capsys):
    from PIL import Image

    Image.fromarray(np.zeros((40, 40), dtype=np.uint8)).save(tmp_path / "one.png")
    code = re.findall(r"```python\n(.*?)```", (DOCS / "predict.md").read_text(), flags=re.DOTALL)[0]
    names = {"run": finished, "path": tmp_path / "one.png", "array": np.zeros((40, 40), dtype=np.uint8)}
    exec(code, names)  # the page is ours
    assert len(capsys.readouterr().out.splitlines()) == 2

"""A page: one HTML file with a model's graph, ONNX Runtime Web, and the page's own programs, and no address in it.

The browser is told to open no connection and to run no program but the two in the file (Content-Security-Policy with
their hashes). The graph takes the rows that the page makes; tests hold these to `wardround predict`, bit for bit.
"""

import gzip
import hashlib
import json
import re
from base64 import b64encode
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from wardround import __version__
from wardround.errors import MissingExtra, ModelError
from wardround.inference.answers import LEAST_MARGIN
from wardround.inference.calibration import Softmax
from wardround.inference.model import Model
from wardround.inference.page.known import known_outputs
from wardround.inference.page.languages import languages_of
from wardround.models.card import PictureInput

RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
"""Files of the package onnxruntime-web: its program, and the compiled operators for one thread."""

MOST_PARAMETERS = 100_000_000
"""Packed into text, nearly the 2^29 characters of the longest string in Chromium (V8's `String::kMaxLength`)."""

_PROGRAMS = ("fault", "png", "jpeg", "recipe", "dicom", "picture", "known", "answer", "draw", "page")
"""The page's own modules, each after those it imports."""

_NOT_PRIVATE = "no privacy guarantee"


def page_of(model: Model, graph: bytes, advice: Path | None = None) -> str:
    """Returns the page of a model.

    Args:
        model: that reads pictures.
        graph: the model as ONNX, see `wardround.inference.export.onnx`.
        advice: see `wardround.inference.page.languages`.

    Raises:
        Errors as `check_page`.
    """
    recipe, languages = check_page(model, advice)
    program, compiled = (_runtime(name) for name in RUNTIME)
    runtime_script = _as_global(program.decode("utf-8"))
    script, style = _own_program(), _asset("page.css")
    card = model.card
    shape = f"{recipe.image_size} x {recipe.image_size} pixels, {'grey' if recipe.colour == 'grey' else 'colour'}"
    said = {
        "target": card.target,
        "classes": card.classes,
        "recipe": recipe.model_dump(mode="json"),
        "modalities": card.modalities,
        "margin": LEAST_MARGIN,
        "is_calibrated": not isinstance(model.scale, Softmax),
        "languages": languages,
        "known": known_outputs(model),
    }
    parts = {
        "policy": _policy(style, runtime_script, script),
        "style": style,
        "study": escape(card.study.name),
        "trained": "trained_not_private" if card.statement.startswith(_NOT_PRIVATE) else "trained_private",
        "statement": escape(card.statement),
        "reads": escape(shape),
        "hash": card.weights.sha256,
        "version": escape(__version__),
        "runtime": escape(_named(runtime_script)),
        "card": json.dumps(said, ensure_ascii=False).replace("<", "\\u003c"),
        "graph": _packed(graph),
        "wasm": _packed(compiled),
        "runtime_script": runtime_script,
        "script": script,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _asset("page.html"))


def check_page(model: Model, advice: Path | None) -> tuple[PictureInput, dict[str, Any]]:
    """Returns the recipe and the languages of a page that can be made, before the graph is.

    Raises:
        ModelError: the model reads volumes, or is too large for a browser (code `model-page`).
        MissingExtra: the runtime is not there.
        StudyError: the advice does not hold (code `study-advice`).
    """
    recipe = model.card.recipe
    if not isinstance(recipe, PictureInput):
        raise ModelError(
            "`--to page` must have a model that reads pictures, got one that reads volumes; use `wardround predict`.",
            code="model-page",
        )
    count = sum(parameter.numel() for parameter in model.whole.parameters())
    if count > MOST_PARAMETERS:
        raise ModelError(
            f"`--to page` must have a model of at most {MOST_PARAMETERS:,} parameters, which a browser can hold as "
            f"text, got {model.card.network.name} with {count:,}; use `wardround predict` or `--to onnx`.",
            code="model-page",
        )
    for name in RUNTIME:
        _runtime(name)
    return recipe, languages_of(advice, model.card.classes if model.card.target != "masks" else ())


def _runtime(name: str) -> bytes:
    try:
        return (files(__package__) / "runtime" / name).read_bytes()
    except OSError:
        raise MissingExtra(
            f"`--to page` must have ONNX Runtime Web, got no {name}; run `make page-runtime` in the checkout (it needs "
            "npm), or install a wheel of wardround, which has it."
        ) from None


def _asset(name: str) -> str:
    return (files(__package__) / "assets" / name).read_text("utf-8")


def _as_global(program: str) -> str:
    """Returns a module whose exports are `globalThis.ort` instead, and whose source map is not asked for."""
    exports = re.findall(r"export\s*\{([^{}]*)\};?", program)
    if len(exports) != 1 or "</script" in program:
        raise MissingExtra(
            "`--to page` must have the release of ONNX Runtime Web that page/package.json names, got another; run "
            "`make page-runtime` again."
        )
    pairs = (one.split(" as ") for one in exports[0].split(","))
    named = ",".join(f"{public.strip()}:{name.strip()}" for name, public in pairs if public.strip() != "default")
    program = re.sub(r"export\s*\{[^{}]*\};?", lambda _: f"globalThis.ort={{{named}}};", program)
    return re.sub(r"\n//# sourceMappingURL=\S*", "", program)


def _named(program: str) -> str:
    found = re.search(r"ONNX Runtime Web v[\d.]+", program)
    return "ONNX Runtime Web (MIT licence)" if found is None else f"{found[0]} (MIT licence)"


def _own_program() -> str:
    """Returns the page's modules as one, each in a scope of its own that gives out what it exports."""
    made = []
    for name in _PROGRAMS:
        module = _asset(f"{name}.js")
        exports = re.findall(r"^export (?:async )?(?:function|class|const) (\w+)", module, flags=re.MULTILINE)
        body = re.sub(r"^(import .*?;\n|export )", "", module, flags=re.MULTILINE)
        names = ", ".join(exports)
        made.append(f"const {{ {names} }} = (() => {{\n{body}\nreturn {{ {names} }};\n}})();")
    return "\n".join(made)


def _policy(style: str, *scripts: str) -> str:
    def hashes(*texts: str) -> str:
        return " ".join(f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts)

    return (
        f"default-src 'none'; connect-src 'none'; script-src {hashes(*scripts)} 'wasm-unsafe-eval'; "
        f"style-src {hashes(style)}; img-src data:; base-uri 'none'; form-action 'none'"
    )


def _packed(content: bytes) -> str:
    return b64encode(gzip.compress(content, 9, mtime=0)).decode()

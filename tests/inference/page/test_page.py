"""The file itself, with a runtime of one line: its policy, its programs, its words, and what is refused."""

import json
import re
from base64 import b64decode, b64encode
from gzip import decompress
from hashlib import sha256
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest
from tests.errors import raises_code
from tests.inference.saved import drawn, picture_input, save, volume_input

from wardround.errors import DataError, MachineError, MissingExtra, ModelError, StudyError
from wardround.inference.answers import LEAST_MARGIN
from wardround.inference.export import write as exporting
from wardround.inference.export.write import export_page
from wardround.inference.model import load
from wardround.inference.page import write
from wardround.inference.page.languages import languages_of

STUB = {
    "ort.wasm.bundle.min.mjs": b"/*! ONNX Runtime Web v0.0.0 */\nconst a=1,b=2;"
    b"export{a as env,b as Tensor,a as default};\n"
    b"//# sourceMappingURL=x.map\n",
    "ort-wasm-simd-threaded.wasm": b"compiled",
}
ASSETS = Path(str(files("wardround.inference.page"))) / "assets"


class Parts(HTMLParser):
    """Scripts, styles, and every address of a page."""

    def __init__(self, page):
        super().__init__()
        self.scripts, self.styles, self.addresses, self.tags = [], [], [], []
        self._open = None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append((tag, found))
        self.addresses += [found[name] for name in ("src", "href", "action", "data", "poster") if name in found]
        assert not any(name == "style" or name.startswith("on") for name in found), "the policy forbids them"
        self._open = {"script": self.scripts, "style": self.styles}.get(tag)
        if self._open is not None:
            self._open.append((found, ""))

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, text):
        if self._open is not None:  # the parser gives it in parts
            found, before = self._open.pop()
            self._open.append((found, before + text))


@pytest.fixture
def model(tmp_path):
    recipe = picture_input(image_size=16)
    return load(save(tmp_path / "run", drawn("linear", recipe, 2), recipe, classes=("no <b>", "yes")))


@pytest.fixture
def stub(monkeypatch):
    monkeypatch.setattr(write, "_runtime", STUB.__getitem__)


@pytest.mark.usefixtures("stub")
def test_the_browser_may_run_the_two_programs_and_reach_nothing(model):
    page = Parts(write.page_of(model, b"graph"))
    policies = [
        found["content"] for tag, found in page.tags if found.get("http-equiv") == "Content-Security-Policy"
    ]
    (policy,) = policies
    rules = {name: values for name, *values in (rule.split() for rule in policy.split(";"))}
    assert rules["default-src"] == rules["connect-src"] == rules["base-uri"] == rules["form-action"] == ["'none'"]
    programs = [text for found, text in page.scripts if found["type"] == "module"]
    assert rules["script-src"] == [*map(hashed, programs), "'wasm-unsafe-eval'"]
    assert rules["style-src"] == [hashed(text) for _, text in page.styles]
    assert rules["img-src"] == ["data:"]
    order = [tag for tag, _ in page.tags]
    assert order.index("meta") < min(order.index("style"), order.index("script"))
    assert [found.get("http-equiv") for tag, found in page.tags if tag == "meta"].index(
        "Content-Security-Policy"
    ) == 1, "only the character set comes before"
    assert page.addresses == ["data:,"]
    assert "url(" not in page.styles[0][1]
    assert "sourceMappingURL" not in "".join(programs)
    assert "globalThis.ort={env:a,Tensor:b};" in programs[0]


def hashed(text):
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


@pytest.mark.usefixtures("stub")
def test_a_page_holds_the_graph_the_rule_and_the_model_s_hash(model):
    text = write.page_of(model, b"graph")
    page = Parts(text)
    held = {found["id"]: content for found, content in page.scripts if "id" in found}
    assert decompress(b64decode(held["graph"])) == b"graph"
    assert decompress(b64decode(held["wasm"])) == b"compiled"
    card = json.loads(held["card"])
    assert card["classes"] == ["no <b>", "yes"]
    assert card["recipe"] == model.card.recipe.model_dump(mode="json")
    assert card["margin"] == LEAST_MARGIN
    assert model.card.weights.sha256 in text
    assert model.card.statement in text
    assert {found["data-word"] for _, found in page.tags if "data-word" in found} <= set(
        card["languages"]["en"]["words"]
    )


def test_the_page_s_modules_give_each_other_what_they_ask_for():
    given = {
        path.name: set(re.findall(r"^export (?:async )?(?:function|class|const) (\w+)", path.read_text(), re.M))
        for path in ASSETS.glob("*.js")
    }
    order = [f"{name}.js" for name in write._PROGRAMS]
    assert sorted(order) == sorted(given)
    every = [name for names in given.values() for name in names]
    assert len(every) == len(set(every))
    for number, name in enumerate(order):
        for names, module in re.findall(
            r'^import \{ (.*?) \} from "\./(.*?)";', (ASSETS / name).read_text(), re.M
        ):
            assert set(names.split(", ")) <= given[module]
            assert module in order[:number]


def test_every_language_has_every_word_and_the_programs_use_no_other():
    found = languages_of(None, ())
    words = set(found["en"]["words"])
    assert set(found["de"]["words"]) == words
    for code in found:
        for key, text in found[code]["words"].items():
            places = set(re.findall(r"\{\w+\}", found["en"]["words"][key]))
            assert set(re.findall(r"\{\w+\}", text)) == places, (code, key)
    programs = "".join(path.read_text() for path in ASSETS.glob("*.js"))
    named = set(re.findall(r'(?:new Fault|said|status)\("(\w+)"', programs))
    assert named <= words
    assert {word for word in words if word not in programs + (ASSETS / "page.html").read_text()} == {
        word for word in words if word.startswith(("place_", "trained_"))
    }


def test_advice_is_read_from_toml_and_json(tmp_path):
    advice = {"de": {"always": "Immer.", "uncertain": "Fragen Sie.", "classes": {"lesion": "Bald."}}}
    (tmp_path / "a.json").write_text(json.dumps(advice))
    (tmp_path / "a.toml").write_text(
        '[de]\nalways = "Immer."\nuncertain = "Fragen Sie."\n[de.classes]\nlesion = "Bald."\n'
    )
    for name in ("a.json", "a.toml"):
        found = languages_of(tmp_path / name, ("clear", "lesion"))
        assert list(found) == ["de"]
        assert found["de"]["advice"] == advice["de"]
        assert found["de"]["name"] == "Deutsch"


def test_another_language_brings_all_words(tmp_path):
    words = dict.fromkeys(languages_of(None, ())["en"]["words"], "mot")
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"fr": {"name": "Français", "words": words}}))
    assert languages_of(path, ())["fr"]["words"] == words
    del words["choose"]
    path.write_text(json.dumps({"fr": {"name": "Français", "words": words}}))
    with raises_code(StudyError, "study-advice"):
        languages_of(path, ())


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"en": 1}', '{"en": {"classes": {"other": "x"}}}', '{"en": {"words": {"no": "x"}}}',
     '{"en": {"alwys": "x"}}', '{"fr": {"always": "x"}}', '{"en": {"always": "\\ud800"}}', "{}", "\udcff"],
)  # fmt: skip
def test_advice_that_does_not_hold_is_refused(content, tmp_path):
    (tmp_path / "a.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with raises_code(StudyError, "study-advice"):
        languages_of(tmp_path / "a.json", ("clear", "lesion"))


@pytest.mark.usefixtures("stub")
def test_a_model_of_volumes_gets_no_page(tmp_path):
    recipe = volume_input()
    model = load(save(tmp_path / "run", drawn("linear", recipe, 2), recipe))
    with raises_code(ModelError, "model-page"):
        export_page(model, tmp_path / "page.html")


@pytest.mark.usefixtures("stub")
def test_what_a_page_cannot_hold_is_refused_before_its_graph_is_made(model, tmp_path, monkeypatch):
    def made(*_):
        raise AssertionError("the graph takes seconds")

    monkeypatch.setattr(exporting, "write_onnx", made)
    (tmp_path / "text.png").write_text("no picture")
    with raises_code(StudyError, "study-advice"):
        export_page(model, tmp_path / "page.html", tmp_path / "none.toml")
    for unread in (tmp_path / "text.png", tmp_path / "none.png"):
        with raises_code(DataError, "data-no-check"):
            export_page(model, tmp_path / "page.html", pictures=[unread])
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError):
        export_page(model, tmp_path / "file" / "a" / "page.html")
    monkeypatch.setattr(write, "MOST_PARAMETERS", 100)
    with raises_code(ModelError, "model-page"):
        export_page(model, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_missing_or_other_runtime_is_one_sentence(model, tmp_path, monkeypatch):
    def only_elsewhere(package):
        return tmp_path if package == "wardround.inference.page" else files(package)

    with monkeypatch.context() as patch:
        patch.setattr(write, "files", only_elsewhere)
        with pytest.raises(MissingExtra, match="make page-runtime"):
            export_page(model, tmp_path / "page.html")
    monkeypatch.setattr(write, "_runtime", lambda name: b"no module")
    with pytest.raises(MissingExtra, match="make page-runtime"):
        write.page_of(model, b"graph")

"""Makes the pictures of the tutorial from a finished run of it: Chromium opens the report and the page, offline.

python -m docs.make_pictures [RUN]

Without RUN the demo is run first. Needs `chromium`, the extras `report` and `export`, and `make page-runtime`.
"""

import argparse
import base64
import io
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

HERE = Path(__file__).parent
EXAMPLE = HERE.parent / "examples" / "demo.toml"
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip


class Tab:
    """One tab of a Chromium without a window, steered over a pipe; no port is opened.

    Args:
        ask: sends a command of the DevTools protocol and returns its result.
    """

    def __init__(self, ask: Any) -> None:
        target = ask("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = ask("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        self.ask: Callable[..., Any] = lambda method, **values: ask(method, values, session)
        self.ask("Network.enable")
        self.ask(
            "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0
        )

    def open(self, page: Path, width: int, height: int, *, dark: bool = False, scale: float = 1) -> None:
        """Opens a file at a size in CSS pixels, and waits until it is loaded."""
        media = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.ask("Emulation.setEmulatedMedia", features=media)
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        self.ask("Page.navigate", url=page.resolve().as_uri())
        self.until("document.readyState === 'complete'")

    def run(self, expression: str) -> Any:
        """Returns the value of an expression in the page."""
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def until(self, expression: str, seconds: float = 60) -> None:
        """Waits until an expression is true.

        Raises:
            TimeoutError: it is still false after `seconds`.
        """
        end = time.monotonic() + seconds
        while not self.run(expression):
            if time.monotonic() > end:
                raise TimeoutError(expression)
            time.sleep(0.1)

    def choose(self, selector: str, file: Path) -> None:
        """Gives a file to a field of the page, as a person does who chooses it."""
        root = self.ask("DOM.getDocument")["root"]["nodeId"]
        field = self.ask("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.ask("DOM.setFileInputFiles", nodeId=field, files=[str(file.resolve())])

    def save(self, out: Path, colours: int = 128, **clip: float) -> None:
        """Writes what is shown, or a part of the page (x, y, width, height), as a PNG with a palette."""
        part = {"clip": {"scale": 1, **clip}, "captureBeyondViewport": True} if clip else {}
        data = base64.b64decode(self.ask("Page.captureScreenshot", format="png", **part)["data"])
        picture = Image.open(io.BytesIO(data)).convert("RGB").quantize(colours, dither=Image.Dither.NONE)
        picture.save(out, optimize=True)


@contextmanager
def browser() -> Iterator[Tab]:
    """Yields a tab; its browser and profile are gone afterwards."""
    command = shutil.which("chromium")
    if command is None:
        raise SystemExit("The pictures are made by Chromium, which is not installed.")
    from_us, to_browser = os.pipe()
    from_browser, to_us = os.pipe()
    with tempfile.TemporaryDirectory() as profile:

        def as_three_and_four() -> None:
            os.dup2(from_us, 3)
            os.dup2(to_us, 4)

        keep = os.dup(from_us), os.dup(to_us)  # so that neither end is 3 or 4 itself
        process = subprocess.Popen(
            [command, *OPTIONS, f"--user-data-dir={profile}"],
            pass_fds=(3, 4, from_us, to_us), preexec_fn=as_three_and_four, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (from_us, to_us, *keep):
            os.close(end)
        with os.fdopen(to_browser, "wb") as writer, os.fdopen(from_browser, "rb") as reader:
            count, rest = 0, b""

            def ask(method: str, values: dict[str, Any], session: str | None = None) -> dict[str, Any]:
                nonlocal count, rest
                count += 1
                sent = {"id": count, "method": method, "params": values}
                writer.write(json.dumps(sent | ({"sessionId": session} if session else {})).encode() + b"\0")
                writer.flush()
                while True:
                    while b"\0" not in rest:
                        rest += os.read(reader.fileno(), 1 << 20)
                    message, _, rest = rest.partition(b"\0")
                    told = json.loads(message)
                    if told.get("id") == count:
                        if "error" in told:
                            raise RuntimeError(f"{method}: {told['error']['message']}")
                        return dict(told["result"])

            try:
                yield Tab(ask)
                ask("Browser.close", {})
            finally:
                process.terminate()
                process.wait()


def make(run: Path, tab: Tab, work: Path) -> None:
    """Writes every picture of the tutorial."""
    from wardround.cli.demo import demo
    from wardround.inference.export.write import export_page
    from wardround.inference.model import load

    tab.open(run / "report.html", 900, 1000)
    tab.save(HERE / "report.png")
    top, height = tab.run(
        "(() => { const found = [...document.querySelectorAll('section')].find("
        "one => one.innerText.startsWith('What collaboration and privacy cost'));"
        "const top = found.getBoundingClientRect().top;"
        "return [top, found.querySelector('table').getBoundingClientRect().bottom - top]; })()"
    )
    tab.save(HERE / "report-cost.png", x=0, y=top, width=900, height=height + 16)

    demo(work / "demo")
    export_page(load(run), work / "page.html")
    tab.open(work / "page.html", 420, 860)
    tab.until("!document.querySelector('#file').disabled", seconds=300)
    tab.choose("#file", work / "demo" / "pictures" / "lesion-2.png")
    # The map of where the network looked is drawn after the answer, and its words come last.
    words = "document.querySelector('#overlay-words').textContent"
    tab.until(f"{words} !== '' && !{words}.startsWith('Now the page measures')", seconds=300)
    tab.run("document.activeElement.blur(); document.querySelector('#answer').scrollIntoView()")
    tab.save(HERE / "page-answer.png", 256)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", type=Path)
    found = parser.parse_args().run
    with tempfile.TemporaryDirectory() as folder, browser() as tab:
        if found is None:
            import wardround

            found = wardround.run(EXAMPLE, Path(folder) / "run").path
        make(found, tab, Path(folder))

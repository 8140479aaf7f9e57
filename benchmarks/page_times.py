"""Seconds that a page takes in Chromium: from opening it until it is ready, and from choosing a picture to its answer.

    python -m benchmarks.page_times [--study examples/chest_xray.toml] [--data FOLDER] [--page page.html] [--openings 3]

Run it on a quiet machine; it takes about a minute. Without --page the page of the study's network with drawn weights is
made first, which costs no training: the times do not depend on the weights. Pictures are published X-rays where the
data are there, else drawn ones of 1,300 pixels. Of each kind of time the median and the range over all openings:

    clock      wall-clock, from the start of the navigation to "ready", from the choice to the painted answer
    main       processor time of the page's main thread
    threads    processor time of the page's process, over all threads

The first picture of an opening is chosen two seconds after "ready", the others when the map of the one before is drawn.
"""

import argparse
import os
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from docs.make_pictures import Tab, browser
from PIL import Image
from tests.inference.saved import drawn, picture_input, save

from wardround.config import read_study
from wardround.inference.export.write import export_page
from wardround.inference.model import load as load_model

PICTURES = 6
WATCH = """
globalThis.times = {};
const mark = (name) => requestAnimationFrame(() => setTimeout(() => (globalThis.times[name] = performance.now())));
addEventListener("change", () => (globalThis.times = { chosen: performance.now() }), true);
addEventListener("DOMContentLoaded", () => {
  const of = (id) => document.getElementById(id);
  let isReady = false;
  new MutationObserver(() => {
    const said = of("status").textContent;
    if (!isReady && /ready/i.test(said)) mark("ready"), (isReady = true);
    if (!of("answer").hidden && globalThis.times.chosen && !globalThis.times.shown)
      (globalThis.times.shown = true), mark("answered");
  }).observe(document.documentElement, { subtree: true, childList: true, characterData: true, attributes: true });
});
"""


class Page:
    """One opening of a page, and the processor time that it has taken so far."""

    def __init__(self, tab: Tab) -> None:
        self.tab = tab
        tab.ask("Performance.enable", timeDomain="timeTicks")
        tab.ask("Page.enable")
        tab.ask("Page.addScriptToEvaluateOnNewDocument", source=WATCH)

    def seconds(self) -> tuple[float, float]:
        """Returns processor seconds of the main thread, and of the page's process."""
        metrics = {one["name"]: one["value"] for one in self.tab.ask("Performance.getMetrics")["metrics"]}
        return metrics["ThreadTime"], metrics["ProcessTime"]

    def measured(self, begin: str, end: str, before: tuple[float, float]) -> dict[str, float]:
        """Waits for a mark and returns the time since another one, in milliseconds of each kind."""
        self.tab.until(f"globalThis.times.{end} > 0", seconds=300)
        clock = self.tab.run(f"globalThis.times.{end} - ({begin})")
        main, threads = (after - since for after, since in zip(self.seconds(), before, strict=True))
        return {"clock": clock, "main": 1000 * main, "threads": 1000 * threads}


def opened(file: Path, pictures: list[Path]) -> list[tuple[str, dict[str, float]]]:
    """Returns the times of one opening, in a browser of its own."""
    with browser() as tab:
        page = Page(tab)
        before = page.seconds()
        tab.open(file, 1280, 900)
        found = [("opening to ready", page.measured("0", "ready", before))]
        time.sleep(2)
        for number, picture in enumerate(pictures):
            before = page.seconds()
            tab.choose("#file", picture)
            of = "first picture" if number == 0 else "a further picture"
            found.append((f"{of} to its answer", page.measured("globalThis.times.chosen", "answered", before)))
            words = "document.querySelector('#overlay-words').textContent"
            tab.until(f"{words}.includes('.') && !{words}.includes('measures')", seconds=300)
    return found


def make(study: Path, folder: Path) -> Path:
    """Returns the page of a study's network with drawn weights."""
    chosen = read_study(study)
    data, model = chosen.data, chosen.model
    recipe = picture_input(  # type: ignore[no-untyped-call]
        image_size=data.image_size, colour=data.colour, fit=data.fit, circle_crop=data.circle_crop, bits=data.bits
    )
    network = drawn(model.name, recipe, 2, backbone=model.backbone, head=model.head)  # type: ignore[no-untyped-call]
    run = save(folder / "run", network, recipe)  # type: ignore[no-untyped-call]
    export_page(load_model(run), folder / "page.html")
    return folder / "page.html"


def pictures_of(data: Path, folder: Path) -> list[Path]:
    """Returns published X-rays, or drawn pictures of their size."""
    published = sorted((data / "chest_xray" / "test").rglob("*.jpeg"))
    if len(published) >= PICTURES:
        return published[:: len(published) // PICTURES][:PICTURES]
    generator = np.random.default_rng(0)
    drawn_ones = []
    for number in range(PICTURES):
        coarse = generator.integers(0, 256, (90, 130), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((1300, 900), Image.Resampling.BICUBIC)
        drawn_ones.append(folder / f"{number}.jpeg")
        picture.save(drawn_ones[-1])
    return drawn_ones


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=Path("examples/chest_xray.toml"))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("WARDROUND_DATA", "../shared/data")))
    parser.add_argument("--page", type=Path)
    parser.add_argument("--openings", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as name:
        page = options.page or make(options.study, Path(name))
        pictures = pictures_of(options.data, Path(name))
        print(f"{page.stat().st_size / 1e6:.1f} MB; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        found: dict[str, list[dict[str, float]]] = {}
        for _ in range(options.openings):
            for what, times in opened(page, pictures):
                found.setdefault(what, []).append(times)
    for what, several in found.items():
        kinds = []
        for kind in several[0]:
            values = [times[kind] for times in several]
            kinds.append(f"{kind} {statistics.median(values):6.0f} ms ({min(values):.0f} to {max(values):.0f})")
        print(f"{what:32} {'   '.join(kinds)}")


if __name__ == "__main__":
    main()

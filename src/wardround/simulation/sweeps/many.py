"""Several studies, each in a process of its own: what is finished is read, what was interrupted goes on.

    out/NAME.toml  the study     out/NAME.log  its process's output     out/NAME/  its run folder

A study's seed, its noise and its ledger are its own: how many runs go on at once changes no result.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from wardround.boundary.private import make_private_folder, open_private, write_whole
from wardround.config import Study, parse_study, read_study
from wardround.coordinator.observer import Observer
from wardround.errors import RecordError, StudyError, WardroundError
from wardround.hospital.pictures import encode_pictures, read_images
from wardround.records.environment import threads_of
from wardround.records.folder import RunRecord
from wardround.records.reading import read_json
from wardround.records.signed import verified
from wardround.simulation.estimate import estimate
from wardround.simulation.own_key import own_pin
from wardround.simulation.sweeps import child

_LOOK_EVERY_S = 0.1
_GRACE_S = 10.0

_LIBRARIES_BYTES = 700_000_000
"""Memory of a process that has read no picture: mostly torch."""


@dataclass(frozen=True)
class Finished:
    """The end of several runs.

    Attributes:
        records: of those that ended well, in the order in which they were asked for.
        failures: a sentence for each of the others.
        spent: names of those that a ledger allowed no round; they are among the failures.
    """

    records: dict[str, RunRecord]
    failures: dict[str, str]
    spent: frozenset[str] = frozenset()


def run_many(
    studies: Mapping[str, Study], out: Path, observer: Observer, *, workers: int | None = None
) -> dict[str, RunRecord]:
    """Runs every study into `out/<name>`; finished runs are read, interrupted ones go on.

    Pictures are decoded, and encoded by a backbone, before the first run starts. A run that fails does not stop the
    others.

    Args:
        studies: by name of their run folder.
        out: the folder of them all; made if missing.
        observer: told how many runs have ended, and which was the last.
        workers: runs at once, at most; cores and memory may allow fewer.

    Raises:
        StudyError: a name that is no plain folder name.
        RecordError: a folder holds a run of another study; nothing was started.
        WardroundError: at least one run failed; the message has each one's sentence, and the others are finished.
    """
    finished = finish_many(studies, out, observer, workers=workers)
    if finished.failures:
        raise WardroundError(sentence_of(finished))
    return finished.records


def sentence_of(finished: Finished) -> str:
    """Returns a sentence that names the runs that failed, and the reasons."""
    why = " ".join(f"{name}: {reason}" for name, reason in finished.failures.items())
    return (
        f"Every run must end well, and {len(finished.failures)} of "
        f"{len(finished.failures) + len(finished.records)} did not. {why} Repair the cause and run it again; "
        "what is finished is kept."
    )


def finish_many(
    studies: Mapping[str, Study],
    out: Path,
    observer: Observer,
    *,
    workers: int | None = None,
    rehearsal: bool = False,
) -> Finished:
    """As `run_many`, but failures are returned beside the records; runs of a `rehearsal` are in no lasting ledger."""
    resolved = {
        name: parse_study(study.model_dump(exclude_none=True), source=name, base=Path.cwd())
        for name, study in studies.items()
    }
    for name, study in resolved.items():
        _check(name, study, out)
    waiting = {name: study for name, study in resolved.items() if not _is_finished(out / name)}
    failures: dict[str, str] = {}
    spent: set[str] = set()
    if waiting:
        make_private_folder(out)
        memory = _prepared(waiting, observer, failures)
        fixed = {name: _threads(study, out / name) for name, study in waiting.items()}
        insisted = [threads for threads in fixed.values() if threads is not None]
        at_once = workers_for(len(studies), memory, insisted, workers)
        share = max(1, cores() // at_once)
        jobs = []
        for name, study in waiting.items():
            if name not in failures:
                jobs.append(_job(name, study, out, fixed[name] or share, rehearsal))
        if jobs:
            observer.stage(f"{len(jobs)} runs, {min(at_once, len(jobs))} at once")
        with closing(_ended(jobs, at_once, observer)) as ended:
            for job, code in ended:
                if code:
                    failures[job.name] = _reason(job, code)
                if code == child.SPENT:
                    spent.add(job.name)
    records = {name: verified(out / name, own_pin()) for name in studies if name not in failures}
    return Finished(records, {name: failures[name] for name in studies if name in failures}, frozenset(spent))


@dataclass(frozen=True)
class _Job:
    """One run in its own process, which has so many threads at most; the study says how many of them it takes."""

    name: str
    study: Path
    folder: Path
    threads: int
    rehearsal: bool

    @property
    def log(self) -> Path:
        return self.study.with_suffix(".log")


def _check(name: str, study: Study, out: Path) -> None:
    """Refuses a name that leads elsewhere, and a folder with a run of another study."""
    if Path(name).name != name or name in ("", ".", ".."):
        raise StudyError(f"A run's name must be a plain folder name, got {name!r}; choose another one.")
    path = out / name / "study.toml"
    if path.is_file() and read_study(path).run_digest != study.run_digest:
        raise RecordError(
            f"The run in {out / name} must be of the study that is asked for, and is of another one; choose "
            "another --out, or move that folder away."
        )


def _is_finished(folder: Path) -> bool:
    """Returns True for a run that has its certificate and every reference run that it asks for."""
    is_run = (folder / "study.toml").is_file() and (folder / "certificate.json").is_file()
    return is_run and not RunRecord.read(folder).outstanding


def _threads(study: Study, folder: Path) -> int | None:
    """Returns the threads that a run insists on: those it began with, for another number may round differently."""
    if (folder / "study.toml").is_file():
        return threads_of(read_json(folder / "environment.json"))
    return study.performance.threads


def _prepared(waiting: Mapping[str, Study], observer: Observer, failures: dict[str, str]) -> list[int]:
    """Decodes every data set once and foresees the memory of every kind of run; what is refused is a failure."""
    memory: dict[str, int] = {}
    read: set[str] = set()
    for name, study in waiting.items():
        pictures = study.model_dump(
            mode="json",
            include={"site": True, "data": True, "model": {"encoder", "moments"}, "performance": {"cache"}},
        )
        cores = {"privacy": {"plan", "trust", "sum", "sampling_prob"}, "federation": {"strategy"}}
        sizes = pictures | study.model_dump(
            mode="json", include={"model": True, "training": True, "performance": True, **cores}
        ) | {"hospitals": study.hospitals.count}  # fmt: skip
        data_key, size_key = (json.dumps(key, sort_keys=True) for key in (pictures, sizes))
        try:
            if size_key not in memory:
                memory[size_key] = memory_of(study)
            if data_key not in read:
                observer.stage("reading pictures")
                images = read_images(study, observer.progress)
                if study.model.backbone is not None:
                    observer.stage("encoding pictures")
                    encode_pictures(study, images, observer.progress)
                read.add(data_key)
        except WardroundError as error:
            failures[name] = str(error)
    return list(memory.values())


def _job(name: str, study: Study, out: Path, threads: int, rehearsal: bool) -> _Job:
    path = out / f"{name}.toml"
    write_whole(path, study.to_toml().encode())
    return _Job(name, path, out / name, threads, rehearsal)


def _ended(jobs: list[_Job], workers: int, observer: Observer) -> Generator[tuple[_Job, int]]:
    """Starts the jobs, at most `workers` at once; each with its exit code as soon as it has ended."""
    done, total = 0, len(jobs)
    waiting = list(reversed(jobs))
    with _children() as running:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.pop()
                running[job.name] = (job, _started(job))
            for name, (job, process) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[name]
                _stdin(process).close()
                done += 1
                observer.progress(done, total, f"{name} {'failed' if process.returncode else 'done'}")
                yield job, process.returncode
            if running:
                time.sleep(_LOOK_EVERY_S)


Running = dict[str, tuple[_Job, subprocess.Popen[bytes]]]


@contextmanager
def _children() -> Iterator[Running]:
    """Whatever ends the block, Ctrl-C included, ends the processes that were started in it."""
    running: Running = {}
    try:
        yield running
    finally:
        for _, process in running.values():
            with suppress(OSError):
                _stdin(process).close()  # they end when this does
        for _, process in running.values():
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _started(job: _Job) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", child.__name__, str(job.study), str(job.folder)]
    command += [child.REHEARSAL] if job.rehearsal else []
    threads = {name: str(job.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    with os.fdopen(open_private(job.log, os.O_WRONLY | os.O_TRUNC), "wb") as log:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log,
            env=os.environ | threads, start_new_session=True,  # Ctrl-C is for this process, which ends them
        )  # fmt: skip


def _stdin(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdin is not None, "opened as a pipe"
    return process.stdin


def _reason(job: _Job, code: int) -> str:
    """Returns a refused run's own sentence; of anything else, the last line and where the rest is."""
    lines = job.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = lines[-1] if lines else "it said nothing"
    if code in (child.REFUSED, child.SPENT):
        return last
    return f"It ended unexpectedly (exit code {code}: {last}); see {job.log}."


def cores() -> int:
    """Returns the cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1


def free_memory() -> int | None:
    """Returns the bytes that can be had without swapping; None where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def memory_of(study: Study) -> int:
    """Returns the bytes that a run of this study takes at its peak, libraries and all.

    Raises:
        WardroundError: anything that the run would refuse before it opens an image.
    """
    return estimate(study).memory_bytes + _LIBRARIES_BYTES


def workers_for(runs: int, memory: Collection[int], threads: Collection[int], asked: int | None) -> int:
    """Returns the runs at once: as many as asked for, cores, and memory allow; at least one.

    Args:
        runs: in all.
        memory: bytes that they take, as far as known.
        threads: numbers of threads that some of them insist on.
        asked: at most this many; None asks for no fewer than possible.
    """
    limits = [runs, cores() // max(threads, default=1)]
    free, largest = free_memory(), max(memory, default=0)
    if free is not None and largest:
        limits.append(free // largest)
    if asked is not None:
        limits.append(asked)
    return max(1, min(limits))

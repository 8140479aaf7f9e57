"""`wardround predict`: answers of a run's model for new pictures, on the screen of the person who asks."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wardround.boundary.private import write_whole
from wardround.boundary.text import counted, say
from wardround.cli.keys import AsJson
from wardround.cli.printing import Member, can_appear, uncollected

if TYPE_CHECKING:
    from wardround.inference.answers import Prediction

NOT_ALL = 3
"""Exit code where some pictures could not be read; 0 where all were, 2 where nothing could be done."""


def predict(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="The folder of a finished run, or where `serve --encrypted` listens."
        ),
    ],
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Pictures, folders, .zip, .tar or MedMNIST .npz.")
    ],
    csv: Annotated[
        Path | None, typer.Option("--csv", callback=can_appear, help="Write a table there, one row a picture.")
    ] = None,
    masks: Annotated[
        Path | None, typer.Option("--masks", help="Write masks there as NIfTI, on the grids of the pictures.")
    ] = None,
    dicom: Annotated[
        Path | None,
        typer.Option("--dicom", help="For DICOM pictures: write Structured Reports or segmentations there."),
    ] = None,
    member: Member = None,
    as_json: AsJson = False,
) -> None:
    """Predict new pictures with a run's model.

    The answer has the class, its probabilities, a mark if it is uncertain, and findings on the picture.

    Exit codes: 0 every picture was read, 3 some were not (the answers say why), 2 none was, or nothing could be done.
    """
    with uncollected():
        from wardround.errors import DataError
        from wardround.inference.answers import Segmented, Unanswered
        from wardround.inference.files import Folder, nifti_of
        from wardround.inference.model import load
        from wardround.inference.tables import csv_of, json_of, lines_of

    if not model.startswith(("http://", "https://")):
        loaded = load(model, member)
    elif member is None:
        from wardround.inference.encrypted.ask import connect

        loaded = connect(model)
    else:
        raise DataError(
            "`--member` must go with a folder, got an address: its server has chosen; leave it out.",
            code="data-member",
        )
    if masks is not None and loaded.card.target != "masks":
        raise DataError(
            f"`--masks` must go with a model that segments, this one answers {loaded.card.target}; leave it out.",
            code="data-no-masks",
        )
    mask_folder = None if masks is None else Folder(masks)
    dicom_folder = None if dicom is None else Folder(dicom)
    answers: list[Prediction] = []
    counts = {True: 0, False: 0}
    faults: list[str] = []
    for answer in loaded.predict_each(paths):
        if isinstance(answer, Segmented) and mask_folder is not None:
            mask_folder.write(answer.file, ".nii.gz", nifti_of(answer))
        if dicom_folder is not None and not isinstance(answer, Unanswered):
            from wardround.inference.dicom import dicom_of

            try:
                content = dicom_of(loaded, answer)
            except DataError as error:
                faults.append(str(error))
            else:
                if content is not None:
                    dicom_folder.write(answer.file, ".dcm", content)
                counts[content is not None] += 1
        if isinstance(answer, Segmented):  # any number of volumes go through a small memory
            answer = replace(answer, mask=answer.mask[:0], logits=answer.logits[:0])
        answers.append(answer)
    if csv is not None:
        write_whole(csv, csv_of(loaded, answers).encode("utf-8", "backslashreplace"))
        say(f"{counted(len(answers), 'row')} written", error=True)
    if as_json:
        say(json.dumps(json_of(loaded, answers)))
    elif csv is None:
        say(*lines_of(loaded, answers))
    if dicom_folder is not None:
        say(
            f"{counted(counts[True], 'DICOM object was', 'DICOM objects were')} written; "
            f"{counted(counts[False], 'picture is', 'pictures are')} no DICOM",
            error=True,
        )
        if faults:
            say(f"{counted(len(faults), 'DICOM object')} could not be made: {faults[0]}", error=True)
    unread = sum(isinstance(answer, Unanswered) for answer in answers)
    if unread == len(answers):
        raise DataError(
            "at least one picture must be readable, got none in what was named; the answers say why.",
            code="data-no-pictures",
        )
    if unread:
        say(f"{unread:,} of {counted(len(answers), 'picture')} could not be read; the answers say why", error=True)
    if unread or faults:
        raise typer.Exit(NOT_ALL)

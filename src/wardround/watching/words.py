"""A view in words, for a terminal."""

import math
from collections.abc import Iterator

from wardround.accounting.statement import format_epsilon
from wardround.boundary.text import counted
from wardround.watching.views import CoordinatorView, HospitalView, RunView, View


def lines_of(view: View) -> Iterator[str]:
    """Yields a view in words."""
    match view:
        case CoordinatorView():
            over = "ended" if view.is_over else view.stage
            yield f"study {view.study}: round {view.round} of {view.rounds}, {over}"
            yield spent_words(view)
            for each in view.hospitals:
                code = f" ({each.code})" if each.code else ""
                seen = "" if each.seconds_unseen is None else f" (last seen {each.seconds_unseen:.0f} s ago)"
                yield (
                    f"  {each.name}: {each.state}{code} for {each.seconds_in_state:.0f} s{seen}, "
                    f"{each.work or 'nothing'} of round {each.round}; {counted(each.answers, 'answer')}, "
                    f"{counted(each.losses, 'lost connection')}, "
                    f"{each.bytes_sent} bytes sent, {each.bytes_received} received, {each.seconds:.1f} s waited for"
                )
            yield from _by_work(view)
        case HospitalView():
            state = "runs" if view.is_running else "does not run"
            last = f"last answer {view.last}, round {view.round}" if view.last else "no answer yet"
            yield f"{view.hospital}: the agent {state}; {last}"
            for study in view.studies:
                most = f"{format_epsilon(study.epsilon_most)} at delta = {study.delta:g}"
                left = max(0.0, study.epsilon_most - study.epsilon_spent)
                own = "; own figures in evaluation/" if study.has_own_figures else ""
                yield (
                    f"  study {study.name} ({study.digest[:12]}): epsilon spent "
                    f"{format_epsilon(study.epsilon_spent)} of {most} for one patient; {left:.3g} left{own}"
                )
            yield (
                f"  {counted(view.answers, 'answer')}, {view.refusals} of them refusals or failures; "
                f"{view.bytes_in} bytes in, "
                f"{view.bytes_out} out"
            )
            yield from _by_work(view)
        case RunView():
            so_far = f", {view.done} of {view.total}" if view.total else ""
            time_left = "" if view.seconds_left is None else f", about {view.seconds_left:.0f} s left"
            yield f"study {view.study}: round {view.round} of {view.rounds}"
            yield f"now: {view.stage}{so_far}{time_left}"
            yield spent_words(view)
            if view.figures:
                figures = ", ".join(f"{title} {value:.3f}" for title, value in view.figures)
                yield f"on the {view.measured_on} set, released without protection: {figures}"
            if view.round:
                away = f"; away: {', '.join(view.missing)}" if view.missing else ""
                answered = view.hospitals - len(view.missing)
                yield f"{answered} of {counted(view.hospitals, 'hospital')} answered in round {view.round}{away}"


def spent_words(view: CoordinatorView | RunView) -> str:
    """Returns a run's epsilon so far, and at most, in a sentence."""
    if math.isinf(view.epsilon):
        return "epsilon: infinity, nothing is promised"
    most = f"{format_epsilon(view.epsilon)} at delta = {view.delta:g} for one patient"
    if view.epsilon_spent is None:
        return f"epsilon: at most {most}; not computed yet for the rounds so far"
    spent, left = format_epsilon(view.epsilon_spent), max(0.0, view.epsilon - view.epsilon_spent)
    return f"epsilon spent by round {view.spent_round}: {spent} of {most}; {left:.3g} left"


def _by_work(view: CoordinatorView | HospitalView) -> Iterator[str]:
    for work, seconds in view.seconds_by_work.items():
        yield f"  {work}: {seconds:.1f} s"

"""`outstation classifier`: train classifiers for a site's own categories."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.commands.common import echo_json, echo_table, json_option, open_store, printable

if TYPE_CHECKING:
    from backends.training.classifier import Trained
    from backends.training.common import Progress
    from backends.training.examples import Examples

DEFAULT_BASE = "bge-small-en-v1.5"
LONG = 1000
"""Steps from which on a phase's progress is shown."""


@click.group()
def classifier() -> None:
    """Train classifiers for your own categories, on this box."""


@classifier.command()
@click.argument("data", type=click.Path(path_type=Path, dir_okay=False), metavar="DATA.csv")
@click.option("--name", required=True, help="The classifier's name on this box.")
@click.option("--text", default="text", show_default=True, help="The column with the texts.")
@click.option("--label", default="label", show_default=True, help="The column with the labels.")
@click.option("--base", default=DEFAULT_BASE, show_default=True, help="The embedding model that it stands on.")
@click.option(
    "--test",
    type=click.FloatRange(0.05, 0.5),
    default=0.2,
    show_default=True,
    help="The part of the rows that only measures.",
)
@click.option(
    "--accuracy",
    type=click.FloatRange(0.5, 1.0),
    default=0.95,
    show_default=True,
    help="What sure answers should reach; the suggested confidence follows from it.",
)
@click.option("--force", is_flag=True, help="Replace a model of that name that was not made here.")
@json_option
def fit(data: Path, name: str, text: str, label: str, base: str, force: bool, as_json: bool, **measure: float) -> None:
    """Learn to label texts from a CSV file of labelled ones. `/v1/classify` serves the classifier at once.

    The file's first line names its columns. A logistic head over a local embedding model is trained on most of the
    rows, and measured on the rest. Nothing leaves the box.
    """
    from backends.training.classifier import install, train
    from backends.training.common import check_place, need
    from backends.training.examples import read_examples
    from backends.training.head import FitSettings

    store = open_store()
    check_place(name, store, force=force)  # before the long work, too
    need("sklearn.linear_model", "train")
    examples = read_examples(data, text, label)
    if not as_json:
        _print_examples(data, examples)
    settings = FitSettings(test=measure["test"], accuracy=measure["accuracy"])
    trained = train(name, base, examples, settings, store, show_progress())
    install(trained, store, force=force)
    if as_json:
        echo_json(trained.report())
    else:
        _print_report(trained)


def show_progress() -> Progress:
    """A line for each phase, and of long ones for each quarter, to stderr: the same in a terminal and in a log."""
    said: dict[str, int] = {}

    def show(phase: str, done: int, total: int) -> None:
        quarter = 4 * done // max(total, 1)
        if quarter <= said.get(phase, -1):
            return
        if phase not in said:
            click.echo(f"{phase} …", err=True)
        elif total >= LONG:
            click.echo(f"{phase}: {quarter * 25}%", err=True)
        said[phase] = quarter

    return show


def _print_examples(data: Path, examples: Examples) -> None:
    from collections import Counter

    counts = Counter(examples.labels).most_common()
    named = ", ".join(f"{printable(label)} {count}" for label, count in counts[:12])
    click.echo(f"{data}: {examples.rows} rows, {len(counts)} labels ({named}{', …' if len(counts) > 12 else ''}).")
    if examples.duplicates:
        click.echo(f"{examples.duplicates} rows say again what others say, and count once.")
    if examples.contradictions:
        click.echo(f"{examples.contradictions} texts stand under more than one label, and are left out.")


def _print_report(trained: Trained) -> None:
    fitted, seen, folds = trained.fitted, trained.fitted.held_out, trained.fitted.cross_validated
    click.echo(f"Learned from {fitted.train_rows} texts, measured on {seen.rows} that it never saw:\n")
    echo_table(
        ("", f"{seen.rows} UNSEEN", f"{folds.rows} CROSS-VALIDATED"),
        (
            ("accuracy", f"{seen.accuracy:.3f}", f"{folds.accuracy:.3f}"),
            ("macro F1", f"{seen.macro_f1:.3f}", f"{folds.macro_f1:.3f}"),
            ("calibration error", f"{seen.ece:.3f}", f"{folds.ece:.3f}"),
            ("log loss", f"{seen.log_loss:.3f}", f"{folds.log_loss:.3f}"),
        ),
    )
    click.echo()
    _print_labels(trained)
    click.echo()
    if fitted.reached:
        click.echo(
            f"From a confidence of {fitted.confidence:g} on it answers {fitted.sure.coverage:.0%} of them itself, "
            f"{fitted.sure.accuracy:.1%} of those rightly; the rest can be passed on."
        )
    else:
        click.echo(
            f"No confidence makes {trained.settings.accuracy:.0%} of its answers right, so that each counts as unsure. "
            "More rows help, or clearer labels; or ask for less with --accuracy."
        )
    click.echo(f"{trained.name} is here: version {trained.version}, {len(fitted.head.labels)} labels.")


def _print_labels(trained: Trained) -> None:
    seen = trained.fitted.held_out
    rows = [
        (
            printable(label.label),
            str(label.rows),
            f"{label.precision:.2f}",
            f"{label.recall:.2f}",
            f"{label.f1:.2f}",
            _taken_for(trained, index),
        )
        for index, label in enumerate(seen.labels)
    ]
    echo_table(("LABEL", "TEXTS", "PRECISION", "RECALL", "F1", "TAKEN FOR"), rows)


def _taken_for(trained: Trained, index: int) -> str:
    """What texts of a label were called wrongly, the most frequent first."""
    seen = trained.fitted.held_out
    wrong = [(count, at) for at, count in enumerate(seen.confusion[index]) if count and at != index]
    wrong.sort(key=lambda pair: -pair[0])
    return ", ".join(f"{printable(seen.labels[at].label)} {count}" for count, at in wrong[:3])

"""`outstation models optimize`: a model's folder becomes a small ONNX model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.commands.classifier import show_progress
from gateway.commands.common import echo_json, echo_table, json_option, open_store, size_text

if TYPE_CHECKING:
    from backends.training.optimize import Optimized, Plan


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--name", required=True, help="The model's name on this box.")
@click.option(
    "--samples",
    "samples_path",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Your own texts, on which it is measured: a line each (of a reranker query, tab, document), .csv or .jsonl.",
)
@click.option(
    "--calibration",
    "calibration_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Other texts of yours, in the same forms: further ways to int8 are tried with them, and the best is kept.",
)
@click.option(
    "--text", default="text", show_default=True, help="The column or field with the texts, of .csv and .jsonl."
)
@click.option("--task", type=click.Choice(("embed", "rerank", "classify")), help="Default: what the folder says.")
@click.option("--pooling", type=click.Choice(("cls", "mean")), help="Of an embedder whose folder does not say.")
@click.option("--precision", type=click.Choice(("int8", "fp32")), default="int8", show_default=True)
@click.option(
    "--min-agreement",
    type=click.FloatRange(0, 1),
    default=0.98,
    show_default=True,
    help="Below it nothing is installed: the worst cosine, the mean nearness of scores, or the part of equal labels.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Install it nevertheless, and in place of a model of that name that was not made here.",
)
@json_option
def optimize(
    folder: Path, name: str, samples_path: Path, calibration_path: Path | None, as_json: bool, **options: Any
) -> None:
    """Export a sentence-transformers or Hugging Face folder to ONNX, and make it int8.

    Speed and agreement with the original are measured on your own samples. Weights are read from safetensors only, and
    no code of the folder is run.
    """
    from backends.sentence_folder import read_folder
    from backends.training.common import check_place
    from backends.training.optimize import install, optimized, with_pooling

    store, force = open_store(), options["force"]
    check_place(name, store, force=force)  # before the long work, too
    found = with_pooling(read_folder(folder), options["pooling"])
    if options["task"] not in (None, found.task):
        raise click.ClickException(f"{folder} holds a model for the task {found.task}, not {options['task']}.")
    plan = _plan(name, found.task, samples_path, calibration_path, options)
    with optimized(found, plan, store, show_progress()) as made:
        good = made.agreement.judged >= plan.wanted
        if good or force:
            install(made, store, force=force)
        if as_json:
            echo_json(made.report() | {"installed": good or force})
        else:
            _print_table(made)
        if not good and not force:
            raise click.ClickException(
                f"It agrees with the original by {made.agreement.judged:.4f} only, and {plan.wanted:g} is wanted: "
                "not installed. --precision fp32 loses nothing; --force, or a lower --min-agreement, takes it as it is."
            )
    if not as_json:
        click.echo(f"{name} is here: {size_text(made.kept.size)}, task {made.manifest.task}.")


def _plan(name: str, task: str, samples_path: Path, calibration_path: Path | None, options: dict[str, Any]) -> Plan:
    from backends.training import samples as texts
    from backends.training.optimize import Plan

    if calibration_path and options["precision"] != "int8":
        raise click.UsageError("--calibration is for int8; fp32 needs none.")
    samples = texts.read_samples(samples_path, task, options["text"])[: texts.MOST_SAMPLES]
    calibration: list[texts.Sample] = []
    if calibration_path:
        given = texts.read_samples(calibration_path, task, options["text"], texts.FEWEST_CALIBRATION)
        calibration = texts.spread(texts.held_apart(given, samples), texts.MOST_CALIBRATION)
    return Plan(name, samples, options["precision"], calibration, options["min_agreement"])


def _print_table(made: Optimized) -> None:
    measure = made.agreement.measure
    rows = [
        (
            form.name,
            size_text(form.size),
            f"{form.milliseconds:.1f}",
            f"{form.agreement.mean:.4f}" if form.agreement else "",
            f"{form.agreement.worst:.4f}" if form.agreement else "",
            f"{form.agreement.same_neighbour:.0%}"
            if form.agreement and form.agreement.same_neighbour is not None
            else "",
        )
        for form in made.forms
    ]
    click.echo(
        f"On {len(made.plan.samples)} samples, one at a time on one thread; agreement with the original as {measure}:\n"
    )
    columns = ("FORM", "SIZE", "MS/SAMPLE", "MEAN", "WORST", "SAME NEIGHBOUR")
    width = len(columns) if any(row[-1] for row in rows) else len(columns) - 1
    echo_table(columns[:width], [row[:width] for row in rows])
    click.echo()
    if made.plan.calibration:
        click.echo(_verdict(made))


def _verdict(made: Optimized) -> str:
    """What calibration came to."""
    texts, kept, plain = len(made.plan.calibration), made.kept, made.plain
    if kept is plain:
        return f"None of the ways that {texts} other texts allow is better than {plain.name}: that one is kept."
    better = f"{plain.judged:.4f} to {kept.judged:.4f}, {plain.milliseconds:.1f} ms to {kept.milliseconds:.1f} ms"
    return f"Kept: {kept.name}, by {texts} other texts. Against {plain.name}: {better}."

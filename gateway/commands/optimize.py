"""`outstation models optimize`: a model's folder becomes a small ONNX model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.commands.classifier import show_progress
from gateway.commands.common import echo_json, echo_table, json_option, open_store, size_text

if TYPE_CHECKING:
    from backends.training.optimize import Optimized


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--name", required=True, help="The model's name on this box.")
@click.option(
    "--samples",
    "samples_path",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Your own texts, one a line, on which it is measured; for a reranker query, tab, document.",
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
def optimize(folder: Path, name: str, samples_path: Path, min_agreement: float, as_json: bool, **options: Any) -> None:
    """Export a sentence-transformers or Hugging Face folder to ONNX, and make it int8.

    Speed and agreement with the original are measured on your own samples. Weights are read from safetensors only, and
    no code of the folder is run.
    """
    from backends.sentence_folder import read_folder
    from backends.training.common import check_place
    from backends.training.optimize import install, optimized, read_samples, with_pooling

    store = open_store()
    check_place(name, store, force=options["force"])  # before the long work, too
    found = with_pooling(read_folder(folder), options["pooling"])
    if options["task"] not in (None, found.task):
        raise click.ClickException(f"{folder} holds a model for the task {found.task}, not {options['task']}.")
    samples = read_samples(samples_path, found.task)
    with optimized(found, name, samples, options["precision"], store, show_progress()) as made:
        good = made.agreement.judged >= min_agreement
        if good or options["force"]:
            install(made, store, force=options["force"])
        if as_json:
            echo_json(made.report() | {"installed": good or options["force"]})
        else:
            _print_table(made)
        if not good and not options["force"]:
            raise click.ClickException(
                f"It agrees with the original by {made.agreement.judged:.4f} only, and {min_agreement:g} is wanted: "
                "not installed. --precision fp32 loses nothing; --force, or a lower --min-agreement, takes it as it is."
            )
    if not as_json:
        click.echo(f"{name} is here: {size_text(made.forms[-1].size)}, task {made.manifest.task}.")


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
    click.echo(f"On {made.samples} samples, one at a time on one thread; agreement with the original as {measure}:\n")
    columns = ("FORM", "SIZE", "MS/SAMPLE", "MEAN", "WORST", "SAME NEIGHBOUR")
    width = len(columns) if any(row[-1] for row in rows) else len(columns) - 1
    echo_table(columns[:width], [row[:width] for row in rows])
    click.echo()

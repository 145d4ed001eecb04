"""`outstation explain`: what the running gateway would do with a prompt, and why. Nothing is run."""

from __future__ import annotations

import os
from typing import Any

import click

from gateway.commands.client import Gateway, gateway_options
from gateway.commands.common import echo_json, echo_table, json_option, printable


@click.command()
@click.argument("prompt")
@click.option("--model", default="auto", show_default=True, help="As a client would ask for it.")
@click.option(
    "--locality",
    type=click.Choice(["only_local", "prefer_local", "prefer_remote", "only_remote"]),
    help="Where it may be answered.",
)
@click.option("--deadline-ms", type=click.IntRange(1, 86_400_000), help="Bound on the whole answer.")
@click.option("--data-class", "data_classes", multiple=True, help="What the request holds; may be repeated.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Completion tokens at most.")
@gateway_options
@json_option
def explain(
    prompt: str,
    model: str,
    locality: str | None,
    deadline_ms: int | None,
    data_classes: tuple[str, ...],
    max_tokens: int | None,
    url: str,
    as_json: bool,
) -> None:
    """Say where PROMPT would be answered, in which order, what was dropped and why."""
    controls = {"locality": locality, "deadline_ms": deadline_ms, "data_classes": list(data_classes) or None}
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "outstation": {name: value for name, value in controls.items() if value is not None},
    }
    plan = Gateway(url, os.environ.get("OUTSTATION_API_KEY")).post(
        "/v1/outstation/explain", {k: v for k, v in body.items() if v is not None}
    )
    if as_json:
        echo_json(plan)
    else:
        _print(plan)


def _print(plan: dict[str, Any]) -> None:
    click.echo(f"Data classes: {', '.join(plan['data_classes']) or 'none found'}")
    signals = [f"{name} {value}" for name, value in plan.get("signals", {}).items()]
    signals += [f"{name} not known in time" for name in plan.get("late_signals", ())]
    if signals:
        click.echo(f"Signals: {', '.join(signals)}")
    click.echo(f"Reasons: {printable('; '.join(plan['reasons'])) or 'none'}")
    if plan["refused"]:
        click.echo(f"Refused with {plan['refused']['status']}: {printable(plan['refused']['message'])}")
    rows = [
        [
            str(number),
            route["route"],
            f"{'' if route['prompt_tokens_exact'] else '~'}{route['prompt_tokens']}",
            f"{route['ttft_s']:.2f} s" if route["ttft_s"] is not None else "-",
            f"${route['cost_usd']:.6f}" if route["cost_usd"] else "free",
            ", ".join(f"{count} {cls}" for cls, count in route["placeholders"].items()) or "-",
        ]
        for number, route in enumerate(plan["routes"], 1)
    ]
    if rows:
        click.echo()
        echo_table(["", "ROUTE", "PROMPT", "FIRST TOKEN", "COST UP TO", "REDACTED"], rows)
    if plan["dropped"]:
        click.echo()
        dropped = [[drop["route"], drop["policy"], printable(drop["reason"])] for drop in plan["dropped"]]
        echo_table(["DROPPED", "BY", "WHY"], dropped)

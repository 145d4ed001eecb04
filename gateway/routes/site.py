"""How the gateway and its models are: `/healthz`, `/readyz`, `/metrics`, `/outstation/status`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

import orjson
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from gateway.metrics import CONTENT_TYPE, Metrics
from gateway.state import Site
from policies.base import Route

Endpoint = Callable[[HTTPRequest], Awaitable[Response]]


def json_response(content: object, status: int = 200) -> Response:
    """`content` as JSON."""
    return Response(orjson.dumps(content), status, media_type="application/json")


async def healthz(http: HTTPRequest) -> Response:
    """The process is alive; says nothing about models."""
    return json_response({"status": "ok"})


def readyz_endpoint(site: Site) -> Endpoint:
    """200 once `auto` could be answered; until then 503 with the reasons."""

    async def readyz(http: HTTPRequest) -> Response:
        reasons = site.not_ready()
        if not reasons:
            return json_response({"status": "ready"})
        response = json_response({"status": "not ready", "reasons": reasons}, 503)
        response.headers["retry-after"] = "1"
        return response

    return readyz


def metrics_endpoint(metrics: Metrics) -> Endpoint:
    """Prometheus' text format."""

    async def scrape(http: HTTPRequest) -> Response:
        return Response(metrics.text(), headers={"content-type": CONTENT_TYPE})

    return scrape


def _reachability(site: Site, route: Route) -> dict[str, Any]:
    health = site.health(route)
    return {
        "route": route.name,
        "context_length": route.context_length,
        "reason": site.offline or health.reason,
        "retry_after_s": health.retry_after,
        "ttft_s": health.ttft_s or None,
        "tokens_per_s": health.tokens_per_s or None,
    }


def status_endpoint(site: Site, version: str) -> Endpoint:
    """What each model does now, and which providers can be asked; `outstation ps` reads it."""
    began = time.monotonic()

    async def status(http: HTTPRequest) -> Response:
        models = [{**asdict(state), "kinds": site.kinds(state.name)} for state in site.states()]
        providers = [_reachability(site, route) for route in site.routes() if route.location == "remote"]
        uptime_s = time.monotonic() - began
        return json_response({"version": version, "uptime_s": uptime_s, "models": models, "providers": providers})

    return status

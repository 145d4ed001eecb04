"""From the configuration to policies: what they need to know is taken out here, and what cannot work is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import orjson

from gateway.config import Config, ConfigError, place_of
from gateway.state import Site
from policies.availability import availability
from policies.base import Policy
from policies.budget import Budget
from policies.capability import Capability
from policies.capacity import Capacity
from policies.detect import Detector
from policies.order import Order
from policies.privacy import Privacy
from policies.rules import RuleError, Rules, compile_rules

DECISIVE = frozenset({"routing", "providers", "privacy", "budget", "rules", "aliases"})
"""The tables that decide a route. How a provider is reached, and with which key, does not."""


def policies_of(config: Config) -> tuple[Policy, ...]:
    """Every policy, in the order in which they decide. Each may only drop and reorder what those before it left.

    Raises:
        ConfigError: a rule or a pattern that does not compile.
    """
    routing, budget = config.routing, config.budget
    return (
        Capability(routing.max_parameters_b),
        privacy_of(config),
        Order(routing.locality, routing.order),
        availability,
        Budget(budget.site_day, budget.site_month, budget.key_day, budget.key_month, key_budgets(config)),
        Capacity(routing.first_token_objective_s, routing.total_objective_s),
        rules_of(config),
    )


def detector_of(config: Config) -> Detector:
    """What looks for private data. Raises `ConfigError` for a pattern that does not compile."""
    try:
        return Detector(config.privacy.custom)
    except ValueError as error:
        raise ConfigError(f"{place_of(config, 'privacy', 'custom')}: {error}.") from None


def privacy_of(config: Config) -> Privacy:
    """What each provider may see."""
    rules = {provider.name: provider.data for provider in config.providers}
    return Privacy(rules, config.privacy.default, detector_of(config).findable)


def rules_of(config: Config) -> Rules:
    """The operator's rules. Raises `ConfigError` for one that does not compile."""
    try:
        return compile_rules(config.rules)
    except RuleError as error:
        raise ConfigError(f"{place_of(config, 'rules', error.index, 'when')}: {error.message}") from None


def rules_look(config: Config) -> bool:
    """Whether a rule asks for the data classes of requests, those included that stay on the box."""
    return any(rule.reads & {"request.data_classes"} for rule in rules_of(config).rules)


def check_rules(config: Config, site: Site) -> None:
    """Refuses a rule that names a route which does not exist. Raises `ConfigError`."""
    there = [route.name for route in site.routes()]
    for index, rule in enumerate(config.rules):
        for name in rule.routes:
            if there and name not in there:
                place = place_of(config, "rules", index, "routes")
                raise ConfigError(f"{place}: there is no route {name!r}, only {', '.join(there)}.")


def key_budgets(config: Config) -> Mapping[str, tuple[float | None, float | None]]:
    """(US dollars a day, a month) of each key that has limits of its own."""
    return {
        key.name: (key.budget_day, key.budget_month)
        for key in config.keys
        if key.budget_day is not None or key.budget_month is not None
    }


def key_classes(config: Config) -> Mapping[str, frozenset[str]]:
    """The data classes that each key's requests have."""
    return {key.name: frozenset(key.data_classes) for key in config.keys if key.data_classes}


def policy_hash(config: Config) -> str:
    """16 hex digits of everything that decides a route; two configurations with the same one decide alike."""
    tables = config.model_dump(mode="json", include=set(DECISIVE))
    for provider in tables["providers"]:
        for secret in ("key_env", "key_file", "base_url"):
            provider.pop(secret, None)
    tables["keys"] = [[key.name, sorted(key.data_classes), key.budget_day, key.budget_month] for key in config.keys]
    return hashlib.sha256(orjson.dumps(tables, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]

"""From the configuration to policies: what they need to know is taken out here, and what cannot work is refused."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping, Sequence

import orjson

from gateway.config import Config, ConfigError, place_of
from gateway.models import did_you_mean
from gateway.state import Site
from policies.availability import availability
from policies.base import Policy
from policies.budget import Budget
from policies.capability import Capability
from policies.capacity import Capacity
from policies.detect import Detector
from policies.detect_body import MEDIA
from policies.guards import guards_of
from policies.names import NAME
from policies.order import Order
from policies.privacy import Privacy
from policies.rules import RuleError, Rules, compile_rules

DECISIVE = frozenset("routing providers privacy budget rules aliases escalations signals guards".split())
"""The tables that decide a route. How a provider is reached, and with which key, does not."""
CLOSE = 0.8
"""How alike two names must be (difflib's ratio) for one to be taken for a slip in the other."""


def policies_of(config: Config) -> tuple[Policy, ...]:
    """Every policy, in the order in which they decide. Each may only drop and reorder what those before it left.

    Raises:
        ConfigError: a rule or a pattern that does not compile.
    """
    routing, budget = config.routing, config.budget
    return (
        *((guards_of(config.guards),) if config.guards else ()),
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
        return Detector(config.privacy.custom, given=(NAME,) if config.privacy.names else ())
    except ValueError as error:
        raise ConfigError(f"{place_of(config, 'privacy', 'custom')}: {error}.") from None


def privacy_of(config: Config) -> Privacy:
    """What each provider may see. Raises `ConfigError` for a data class that looks misspelt."""
    rules = {provider.name: provider.data for provider in config.providers}
    findable = detector_of(config).findable
    check_classes(config, findable | {MEDIA})
    return Privacy(rules, config.privacy.default, findable)


def check_classes(config: Config, found: frozenset[str]) -> None:
    """Refuses a data class that nothing finds and nobody declares, but whose name is close to one that is there: it
    would be a rule that never holds. Any other is one that only requests declare, such as `health`.

    Raises:
        ConfigError: says which may have been meant.
    """
    ruled = {name for row in config.providers for name in row.data} - {"default"}
    declared = {name for key in config.keys for name in key.data_classes}
    places = [(("keys", i, "data_classes"), n) for i, key in enumerate(config.keys) for n in key.data_classes]
    places += [(("providers", i, "data"), n) for i, row in enumerate(config.providers) for n in row.data]
    for place, name in places:
        if name in found or (name in ruled and name in declared) or name == "default":
            continue
        others = (found | ruled | declared | {"default"}) - {name, MEDIA}  # `medical` is no slip
        if close := difflib.get_close_matches(name, sorted(others), n=1, cutoff=CLOSE):
            raise ConfigError(
                f"{place_of(config, *place)}: no data class {name!r} is found in a text, and no key declares it. "
                f"Did you mean {close[0]!r}? A class of your own needs a name that is less like it, or an entry in "
                f"`[privacy] custom`."
            )


def only_declared(config: Config) -> list[str]:
    """Data classes that providers' `data` names, and that only a header, a body or a key can tell."""
    named = {name for row in config.providers for name in row.data}
    return sorted(named - detector_of(config).findable - {MEDIA, "default"}) if named else []


def rules_of(config: Config) -> Rules:
    """The operator's rules. Raises `ConfigError` for one that does not compile."""
    try:
        return compile_rules(config.rules)
    except RuleError as error:
        raise ConfigError(f"{place_of(config, 'rules', error.index, 'when')}: {error.message}") from None


def rules_look(config: Config) -> bool:
    """Whether a rule asks for the data classes of requests, those included that stay on the box."""
    return any(rule.reads & {"request.data_classes"} for rule in rules_of(config).rules)


def signals_read(config: Config) -> frozenset[str]:
    """Names of the signals that a rule or a guard reads; all others are not looked for."""
    by_rules = {name.removeprefix("signals.") for name in rules_of(config).reads if name.startswith("signals.")}
    return frozenset(by_rules | {guard.reads for guard in guards_of(config.guards).guards})


def check_rules(config: Config, site: Site) -> None:
    """Refuses a rule or a guard that names a route which does not exist. Raises `ConfigError`."""
    check_rule_routes(config, [route.name for route in site.routes()])


def check_rule_routes(config: Config, there: Sequence[str]) -> None:
    """The same for these routes. On a box without models, any may still come."""
    any_local = not any(name.startswith("local/") for name in there)
    rows = [("rules", index, rule.routes) for index, rule in enumerate(config.rules)]
    rows += [("guards", index, guard.routes) for index, guard in enumerate(config.guards)]
    for table, index, names in rows:
        for name in names:
            if name not in there and not (any_local and name.startswith("local/")):
                place = place_of(config, table, index, "routes")
                raise ConfigError(f"{place}: there is no route {name!r}{did_you_mean(name, there)}")


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

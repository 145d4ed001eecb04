"""What the file says of providers, names, rules and data classes: each mistake is named with its line and a hint."""

from __future__ import annotations

import pytest

from backends.fake import FakeBackend
from gateway.app import build_app
from gateway.config import ConfigError, load_config
from gateway.policies import only_declared, policies_of, policy_hash
from gateway.providers import provider_aliases, provider_settings, remote_routes

MODEL = """[[providers.models]]
name = "large"
context_length = 1000
input_price = 1
output_price = 2
"""
KEY = '[[keys]]\nname = "k"\nenv = "K"\n'
RULE = '[[rules]]\nname = "r"\nwhen = "true"\n'
ACME = '[[providers]]\nname = "acme"\nbase_url = "https://acme.example/v1"\n' + MODEL


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Reads this text and puts the gateway together, as a start does."""

    def started(text, *backends, **env):
        file = tmp_path / "outstation.toml"
        file.write_text(text, encoding="utf-8")
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        config = load_config(file, environ={"OUTSTATION_HOME": str(tmp_path), **env})
        return build_app(config, backends or [FakeBackend("m")]).current.config

    return started


def acme(**lines: str) -> str:
    """The provider with these lines more."""
    return ACME.replace("[[providers.models]]", "".join(f"{k} = {v}\n" for k, v in lines.items()) + MODEL[:20], 1)


WRONG = [
    # names of providers and models
    (ACME.replace('"acme"', '"local"'), 2, "providers[0].name: 'local' is built in"),
    (ACME.replace('"acme"', '"auto"'), 2, "providers[0].name: 'auto' is built in"),
    (ACME + ACME, 10, "providers[1].name: the name 'acme' is given twice"),
    (ACME + MODEL, 1, "providers[0]: the provider 'acme' has a model twice"),
    (ACME.replace("https:", "ftp:"), 3, "is no base URL"),
    (ACME.replace("https://", "https://me:secret@"), 3, "holds no password"),
    (ACME.replace("https:", "http:"), 1, "would send the key and every prompt in clear"),
    # prices
    (ACME.replace("input_price = 1\n", ""), 4, "`providers[0].models[0].input_price` is missing: US"),
    (ACME.replace("output_price = 2\n", ""), 4, "`providers[0].models[0].output_price` is missing"),
    (ACME.replace("input_price = 1", "input_price = -1"), 7, "input_price: expected greater than or equal to 0"),
    (ACME.replace("output_price = 2", "output_price = inf"), 8, "output_price: expected a finite number"),
    (ACME.split("[[providers.models]]")[0] + "models = []\n", 4, "providers[0].models: needs at least 1."),
    # aliases
    (ACME + 'aliases = ["x"]\n[aliases]\nx = "auto"\n', 11, "aliases.x: the model name or alias 'x' is given twice"),
    (ACME + 'aliases = ["x", "x"]\n', 9, "the model name or alias 'x' is given twice"),
    (ACME + '[aliases]\n"acme/large" = "auto"\n', 10, "the model name or alias 'acme/large' is given twice"),
    (ACME + '[aliases]\n"x" = "acme/lage"\n', 10, "no model 'acme/lage' here, only m, acme/large, auto. Did you mean"),
    (ACME + '[aliases]\n"x" = "other/large"\n', 10, "there is no model 'other/large' here"),
    (ACME + '[routing]\ndefault = "acme/large"\n', 10, "routing.default: 'acme/large' is a provider's model"),
    ('[routing]\ndefault = "gone"\n', 2, "routing.default: there is no model 'gone' here"),
    # rules
    (ACME + RULE + 'routes = ["acme/lage"]\n', 12, "no route 'acme/lage', only local/m"),
    (ACME + RULE + 'routes = ["local/x"]\n', 12, "rules[0].routes: there is no"),
    ('[[rules]]\nname = "r"\nwhen = "request.n >"\ndeny = "x"\n', 3, "rules[0].when: rule 'r': "),
    ('[[rules]]\nname = "r"\nwhen = "site.weather == 1"\ndeny = "x"\n', 3, "there is no `site.weather`"),
    ('[[rules]]\nname = "r"\nwhen = "request.max_tokens"\ndeny = "x"\n', 3, "not true or false"),
    ('[[rules]]\nname = "r"\nwhen = "true"\n', 1, "rules[0]: give exactly one of `locality`, `routes` and `deny`"),
    ('[[rules]]\nname = "r"\nwhen = "true"\ndeny = "x"\n' * 2, 6, "rules[1].name: the name 'r' is given twice"),
    # keys
    (acme(key_env='"GONE"'), 4, "environment variable GONE holds nothing. Put the key of the provider 'acme' there"),
    (acme(key_env='"SPACED"'), 4, "what the environment variable SPACED holds is no key"),
    (acme(key_file='"none"'), 4, "providers[0].key_file: the key of the provider 'acme' cannot be read from"),
    (acme(key_file='"empty"'), 4, "holds nothing"),
    (acme(key_file='"a"', key_env='"B"'), 1, "give at most one of `key_env` and `key_file`"),
    ('[[keys]]\nname = "k"\nenv = "GONE"\n', 1, "the key 'k' is empty: the environment variable GONE"),
    ('[[keys]]\nname = "k"\nenv = "K"\n' * 2, 5, "keys[1].name: the name 'k' is given twice"),
    # data classes
    (acme(data='{ emial = "deny" }'), 4, "providers[0].data: no data class 'emial' is found in a text"),
    (acme(data='{ secrets = "deny" }'), 4, "Did you mean 'secret'?"),
    (acme(data='{ defualt = "deny" }'), 4, "Did you mean 'default'?"),
    (acme(data='{ email = "never" }'), 4, "providers[0].data.email: expected 'allow', 'redact' or 'deny'"),
    (KEY + 'data_classes = ["helth"]\n' + acme(data='{ health = "deny" }'), 4, "Did you mean 'health'"),
    ('[privacy]\ncustom = { badge = "[" }\n', 2, "privacy.custom: the data class 'badge'"),
    ('[privacy]\ncustom = { media = "x" }\n', 2, "'media' is built in"),
    ('[privacy]\ncustom = { default = "x" }\n', 2, "'default' is built in"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "message"), WRONG, ids=[f"{n}-{w[2][:40]}" for n, w in enumerate(WRONG)])
def test_each_mistake_is_refused_at_the_start_with_its_line(start, tmp_path, text, line, message):
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ConfigError) as caught:
        start(text, K="k", SPACED="two words")
    assert message in str(caught.value)
    assert f"{tmp_path}/outstation.toml, line {line}: " in str(caught.value)
    assert "secret@" not in str(caught.value)


def test_one_mistake_is_named_once(start):
    with pytest.raises(ConfigError) as caught:
        start(ACME.replace("input_price = 1\n", ""))
    assert len(str(caught.value).splitlines()) == 1


RIGHT = [
    acme(data='{ health = "deny", medical = "allow", credit_card = "deny", default = "redact" }'),
    '[[keys]]\nname = "k"\nenv = "K"\ndata_classes = ["emails"]\n' + acme(data='{ emails = "deny" }'),
    '[privacy]\ncustom = { email = "x@y", emails = "z@z" }\n' + acme(data='{ emails = "deny" }'),
    ACME + '[aliases]\nx = "acme/large"\ny = "local/m"\nz = "auto"\n',
    ACME + '[[rules]]\nname = "r"\nwhen = "true"\nroutes = ["acme/large", "local/m"]\n',
]


@pytest.mark.parametrize("text", RIGHT)
def test_what_is_no_mistake(start, text):
    start(text, K="k")


def test_on_a_box_without_models_local_ones_may_still_come(tmp_path):
    file = tmp_path / "outstation.toml"
    rule = '[[rules]]\nname = "r"\nwhen = "true"\nroutes = ["local/x", "acme/large"]\n'
    file.write_text(ACME + rule + '[aliases]\ny = "x"\n')
    build_app(load_config(file, environ={"OUTSTATION_HOME": str(tmp_path)}), [])


def test_classes_that_only_a_declaration_brings(start):
    config = start(acme(data='{ health = "deny", email = "allow", media = "deny", default = "deny" }'))
    assert only_declared(config) == ["health"]
    assert only_declared(start("")) == []


def test_keys_are_read_and_shown_nowhere(start, tmp_path):
    (tmp_path / "key").write_text(" sk-from-file\n")
    config = start(acme(key_file='"key"'))
    (settings,) = provider_settings(config)
    assert settings.key == "sk-from-file"
    assert "sk-from-file" not in repr(settings) + repr(config)
    (settings,) = provider_settings(start(acme(key_env='"K"'), K="x"), {"K": " sk-from-env "})
    assert settings.key == "sk-from-env"
    assert [s.key for s in provider_settings(start(ACME))] == [""]


def test_a_file_that_is_only_looked_at_needs_no_key(tmp_path):
    file = tmp_path / "other.toml"
    text = '[server]\nhost = "0.0.0.0"\n[[keys]]\nname = "k"\nenv = "GONE"\n'
    file.write_text(text + acme(key_env='"GONE"'))
    config = load_config(file, environ={"OUTSTATION_HOME": str(tmp_path)}, to_serve=False)
    assert config.access == ()
    assert [route.name for route in remote_routes(config)] == ["acme/large"]
    assert len(policies_of(config)) == 7


def test_a_route_is_what_the_file_says(start):
    text = ACME + 'cached_price = 0.5\nquality = 3\ncapabilities = ["tools"]\naliases = ["big"]\n'
    config = start(text)
    (route,) = remote_routes(config)
    assert (route.name, route.model, route.location, route.provider) == ("acme/large", "acme/large", "remote", "acme")
    assert (route.price.input, route.price.output, route.price.cached, route.quality) == (1, 2, 0.5, 3)
    assert route.capabilities == {"tools", "functions"}
    assert provider_aliases(config) == {"big": "acme/large"}
    free = ACME.replace("_price = 1", "_price = 0").replace("_price = 2", "_price = 0")
    assert remote_routes(start(free))[0].price is None


def test_the_policys_hash_names_what_decides_and_nothing_else(start):
    first = policy_hash(start(acme(key_env='"K"'), K="a"))
    assert policy_hash(start(acme(key_env='"L"').replace("acme.example", "other.example"), L="b")) == first
    assert policy_hash(start(acme(key_env='"K"', data='{ email = "allow" }'), K="a")) != first
    assert policy_hash(start(acme(key_env='"K"').replace("_price = 1", "_price = 3"), K="a")) != first


@pytest.mark.parametrize("host", ["127.0.0.1:9", "10.1.2.3", "[::1]:9", "[fd00::1]", "gpu", "gpu.lan", "gpu.local:1"])
def test_a_provider_on_the_sites_own_network_may_be_spoken_to_in_clear(start, host):
    start(ACME.replace("https://acme.example", f"http://{host}"))


def test_the_operator_may_insist_on_clear_text(start):
    start(acme(insecure="true").replace("https:", "http:"))

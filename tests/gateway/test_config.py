"""One file; each mistake is named with its file, line and place, and a hint."""

import hashlib
from pathlib import Path

import pytest

from backends.models.store import LocalModel
from gateway.config import ConfigError, check_exposure, home_dir, is_loopback, load_config
from gateway.models import llama_settings, model_aliases
from gateway.schemas.model import ModelSettings


@pytest.fixture
def load(tmp_path):
    """Loads this text as a configuration."""

    def loaded(text, **options):
        file = tmp_path / "outstation.toml"
        file.write_text(text, encoding="utf-8")
        return load_config(
            file, environ={"OUTSTATION_HOME": str(tmp_path / "home"), **options.pop("env", {})}, **options
        )

    return loaded


WRONG = [
    ("[server]\nprot = 1", "line 2: unknown key `server.prot`. Did you mean `port`?"),
    ('[server]\n\nport = "x"', "line 3: server.port: expected a valid integer, found the string 'x'"),
    ("[server]\nport = 70000", "line 2: server.port: expected less than or equal to 65535, found 70000"),
    ("[server]\nport = true", "server.port: expected a valid integer, found true"),
    (
        "[sever]\nport = 1",
        "line 1: unknown key `sever`. Did you mean `server`? Allowed here: aliases, audit, budget, documents",
    ),
    ('[[models]]\nname = "a"\n[[models]]\nnme = "b"', "line 4: unknown key `models[1].nme`. Did you mean `name`?"),
    ('[[models]]\nload = "start"', "`models[0].name` is missing"),
    ('[[models]]\nname = "A b"', "line 2: models[0].name: expected a string that matches"),
    (
        '[[models]]\nname = "a"\nload = "now"',
        "line 3: models[0].load: expected 'first_use' or 'start', found the string 'now'",
    ),
    (
        '[[models]]\nname = "a"\n[models.sampling]\ntop_p = 2',
        "line 4: models[0].sampling.top_p: expected less than or equal",
    ),
    ('[[models]]\nname = "a"\nkeep_alive_s = -0.5', "models[0].keep_alive_s: below 0 only -1"),
    ('[[models]]\nname = "a"\n[[models]]\nname = "a"', "the model name or alias 'a' is given twice"),
    ('[aliases]\nauto = "x"', "the model name or alias 'auto' is given twice"),
    ('[aliases]\n"gpt 4" = "auto"', "aliases.gpt 4: expected a string that matches"),
    ("[limits]\nqueue_timeout_s = 0", "limits.queue_timeout_s: expected greater than 0, found 0"),
    ("[limits]\ntotal_timeout_s = inf", "limits.total_timeout_s: expected a finite number"),
    ('[logging]\nlevel = "loud"', "logging.level: expected 'debug', 'info', 'warning' or 'error'"),
    ('[[keys]]\nname = "k"', "keys[0]: give exactly one of `sha256`, `env` and `file`"),
    ('[[keys]]\nname = "k"\nenv = "A"\nfile = "b"', "keys[0]: give exactly one of"),
    ('[[keys]]\nname = "k"\nenv = "NOT_SET"', "the key 'k' is empty: the environment variable NOT_SET"),
    ('[[keys]]\nname = "k"\nfile = "none"', "the key 'k' cannot be read from"),
    ("server = 1", "server: expected a valid dictionary"),
    ("[server\n", "not valid TOML"),
    ("a = 1\na = 2", "not valid TOML"),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[message[:50] for _, message in WRONG])
def test_every_mistake_is_named_with_its_place(load, text, message):
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert message in str(caught.value)
    assert "outstation.toml" in str(caught.value)


def test_all_mistakes_are_named_at_once(load):
    with pytest.raises(ConfigError) as caught:
        load('[server]\nport = "x"\nhots = "y"\n')
    assert len(str(caught.value).splitlines()) == 2


def test_a_wrong_key_is_not_repeated(load):
    with pytest.raises(ConfigError) as caught:
        load('[[keys]]\nname = "k"\nsha256 = "my plain secret"')
    assert "secret" not in str(caught.value)


def test_defaults_without_any_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config(environ={"OUTSTATION_HOME": str(tmp_path / "home")})
    assert config.source is None
    assert (config.server.host, config.server.port) == ("127.0.0.1", 8484)
    assert config.home == tmp_path / "home"


def test_where_the_file_is_looked_for(tmp_path, monkeypatch):
    home, here, named, given = (tmp_path / name for name in ("home", "here", "named", "given"))
    for place, port in ((home, 1), (here, 2), (named, 3), (given, 4)):
        place.mkdir()
        (place / "outstation.toml").write_text(f"[server]\nport = {port}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    env = {"OUTSTATION_HOME": str(home)}
    assert load_config(environ=env).server.port == 1
    monkeypatch.chdir(here)
    assert load_config(environ=env).server.port == 2
    env["OUTSTATION_CONFIG"] = str(named / "outstation.toml")
    assert load_config(environ=env).server.port == 3
    assert load_config(given / "outstation.toml", environ=env).server.port == 4
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path / "none.toml", environ=env)


def test_the_command_line_wins(load):
    config = load("[server]\nport = 1", port=2, host="localhost")
    assert (config.server.host, config.server.port) == ("localhost", 2)
    with pytest.raises(ConfigError, match=r"server\.port"):
        load("", port=99999)


def test_but_hides_no_mistake_of_the_file(load):
    with pytest.raises(ConfigError, match=r"line 2: server\.port"):
        load('[server]\nport = "x"', port=2)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "site.example"])
def test_an_open_address_needs_a_key(load, host):
    with pytest.raises(ConfigError, match="OUTSTATION_API_KEY") as caught:
        load("", host=host)
    assert "[[keys]]" in str(caught.value)
    check_exposure(load("", host=host, env={"OUTSTATION_API_KEY": "k"}))


def test_loopback():
    assert all(map(is_loopback, ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost", "LOCALHOST"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "10.0.0.1", "localhost.example", ""]))


def test_keys_come_from_a_hash_the_environment_or_a_file(load, tmp_path):
    (tmp_path / "key").write_text(" from-file\n", encoding="utf-8")
    digest = hashlib.sha256(b"hashed").hexdigest()
    config = load(
        f'[[keys]]\nname="a"\nsha256="{digest}"\n[[keys]]\nname="b"\nenv="B"\n[[keys]]\nname="c"\nfile="key"',
        env={"B": "from-env", "OUTSTATION_API_KEY": "built-in"},
    )
    expected = {"a": b"hashed", "b": b"from-env", "c": b"from-file", "OUTSTATION_API_KEY": b"built-in"}
    assert {key.name: key.digest for key in config.access} == {
        name: hashlib.sha256(secret).digest() for name, secret in expected.items()
    }
    assert "from-env" not in repr(config)


def test_the_home():
    assert home_dir({"OUTSTATION_HOME": "/x"}) == Path("/x")
    assert home_dir({}).name == "outstation"


def test_a_models_settings_are_the_operators_then_the_catalogues(load):
    config = load("[limits]\nqueue_length = 5")
    local = LocalModel("m", Path("/m.gguf"), "ab", 1, "", {"temperature": 0.2, "top_p": 0.9, "unknown": 1}, 7)
    model = ModelSettings(name="m", step_budget_ms=80, sampling={"temperature": 0})
    settings = llama_settings(model, local, config)
    assert (settings.sampling.temperature, settings.sampling.top_p) == (0, 0.9)
    assert (settings.queue_length, settings.step_budget_s, settings.load_at_start) == (5, 0.08, False)
    assert (settings.sha256, settings.created) == ("ab", 7)


def test_aliases_come_from_both_places(load):
    config = load('[aliases]\n"gpt-4o-mini" = "auto"\n[[models]]\nname = "m"\naliases = ["small"]')
    assert model_aliases(config) == {"gpt-4o-mini": "auto", "small": "m"}

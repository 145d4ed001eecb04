"""Small models of the store as the gateway sees them: names, tasks, defaults, reloads. Nothing is computed here."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from backends.base import Backend
from backends.errors import ModelNotFound, Unavailable
from backends.fake import FakeBackend
from backends.models.bundle import Bundle, pull_bundle
from backends.models.catalogue import bundled
from backends.models.store import Origin, Store
from backends.onnx.shelf import LOOK_S
from backends.types import Chunk, Features, Kind, Request, Usage
from gateway.app import build_app
from gateway.config import Config, ConfigError, load_config
from gateway.models import build_backends, check_names, find_pulled
from gateway.pool import Pool
from gateway.small_models import host_settings, runner
from gateway.state import close_all
from tests.models.folder_writer import tiny_graph, write_model
from tests.models.gguf_writer import gguf

pytestmark = pytest.mark.anyio


def put(home: Path, name: str, **manifest: object) -> Path:
    """A small model in the store; one that the product carries, unless its manifest is given."""
    place = Store(home).place(name)
    if manifest:
        return write_model(place, **manifest)
    return Path(shutil.copytree(bundled() / name, place))


def put_llm(home: Path, name: str) -> None:
    store = Store(home)
    store.prepare(0)
    store.part(name).write_bytes(gguf())
    store.add(name, store.part(name), Origin("a test", "ab" * 32))


def config_of(home: Path, text: str = "") -> Config:
    home.mkdir(parents=True, exist_ok=True)
    file = home / "outstation.toml"
    file.write_text(text)
    return load_config(file, environ={"OUTSTATION_HOME": str(home)})


def names(backends: list[Backend]) -> list[str]:
    return [backend.name for backend in backends]


def kinds(**by_name: Kind) -> dict[str, frozenset[Kind]]:
    return {name.replace("_", "/"): frozenset({kind}) for name, kind in by_name.items()}


def test_each_in_the_store_is_served_with_its_tasks(tmp_path: Path) -> None:
    put(tmp_path, "toxic-bilstm")
    put(tmp_path, "jailguard")
    put_llm(tmp_path, "tiny")
    large, *small = build_backends(config_of(tmp_path), Pool())
    assert large.name == "tiny"
    assert {backend.name: backend.kinds for backend in small} == {
        "jailguard": {"classification"},
        "toxic-bilstm": {"classification", "moderation"},
    }


def test_they_are_served_whatever_models_says(tmp_path: Path) -> None:
    put(tmp_path, "toxic-bilstm")
    put_llm(tmp_path, "tiny")
    put_llm(tmp_path, "other")
    assert names(build_backends(config_of(tmp_path, '[[models]]\nname = "tiny"\n'), Pool())) == ["tiny", "toxic-bilstm"]


def test_a_configured_llm_keeps_its_name(tmp_path: Path) -> None:
    put(tmp_path, "toxic-bilstm")
    (tmp_path / "x.gguf").write_bytes(gguf())
    text = f'[[models]]\nname = "toxic-bilstm"\nfile = "{tmp_path / "x.gguf"}"\n'
    (backend,) = build_backends(config_of(tmp_path, text), Pool())
    assert "chat" in backend.kinds


def test_a_small_model_alone_is_no_default_for_chats(tmp_path: Path) -> None:
    put(tmp_path, "toxic-bilstm")
    site = build_app(config_of(tmp_path)).current.site
    assert site.names() == ["toxic-bilstm"]
    assert site.resolve("auto", "moderation").routes[0].name == "local/toxic-bilstm"
    with pytest.raises(Unavailable, match="No language model"):
        site.resolve("auto")
    with pytest.raises(Unavailable, match=r"outstation pull bge-small-en-v1\.5"):
        site.resolve("auto", "embedding")
    put_llm(tmp_path, "tiny")
    with pytest.raises(ConfigError, match="there is no model 'toxic-bilstm' here, only tiny"):
        build_app(config_of(tmp_path, '[routing]\ndefault = "toxic-bilstm"\n'))


def test_aliases_lead_to_them(tmp_path: Path) -> None:
    put(tmp_path, "toxic-bilstm")
    site = build_app(config_of(tmp_path, '[aliases]\n"omni-moderation-latest" = "toxic-bilstm"\n')).current.site
    assert site.resolve("omni-moderation-latest", "moderation").routes[0].model == "toxic-bilstm"
    assert site.names() == ["toxic-bilstm", "omni-moderation-latest"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('embedding = "bge"', r"line 2: small_models.embedding: there is no model 'bge' here, only bge-s, acme/embed"),
        ('rerank = "bge-s"', r"small_models.rerank: 'bge-s' is not made for that \(it does embedding\)"),
        ('moderation = "nothing"', "there is no model 'nothing' here."),
    ],
)
def test_a_default_that_is_written_must_be_there_and_fit(tmp_path: Path, text: str, expected: str) -> None:
    config = config_of(tmp_path, f"[small_models]\n{text}\n")
    with pytest.raises(ConfigError, match=expected):
        check_names(config, kinds(**{"bge-s": "embedding"}), kinds(acme_embed="embedding"))
    check_names(config, {})  # on a box without models, any may still come


def test_a_default_that_is_left_out_may_be_missing(tmp_path: Path) -> None:
    check_names(config_of(tmp_path), kinds(tiny="chat"))


def test_an_embedder_may_be_a_providers(tmp_path: Path) -> None:
    config = config_of(tmp_path, '[small_models]\nembedding = "acme/embed"\n')
    check_names(config, kinds(tiny="chat"), kinds(acme_embed="embedding"))


def test_one_process_is_shared_and_kept_over_a_reload(tmp_path: Path) -> None:
    put(tmp_path, "toxic-bilstm")
    pool = Pool()
    (before,) = build_backends(config_of(tmp_path), pool)
    put(tmp_path, "jailguard")
    first, second = build_backends(config_of(tmp_path, '[aliases]\n"x" = "auto"\n'), pool)
    assert second is before
    assert pool.shared(host_settings(config_of(tmp_path)), lambda: "made anew") != "made anew"
    others = build_backends(config_of(tmp_path, "[small_models]\nthreads = 2\n"), pool)
    assert before not in others
    assert pool.keep([first, second]) == others


def test_one_that_came_since_the_start_is_found(tmp_path: Path) -> None:
    config, pool = config_of(tmp_path, '[[models]]\nname = "tiny"\n'), Pool()
    assert find_pulled(config, pool, "toxic-bilstm") is None
    put(tmp_path, "toxic-bilstm")
    put_llm(tmp_path, "tiny")
    put_llm(tmp_path, "other")
    found = find_pulled(config, pool, "toxic-bilstm")
    assert found is not None
    assert found in build_backends(config, pool)
    assert find_pulled(config, pool, "other") is None


def test_the_settings_of_the_process_are_the_configurations(tmp_path: Path) -> None:
    text = (
        '[small_models]\nthreads = 3\nexecution_providers = ["openvino", "cpu"]\nbatch_tokens = 99\nkeep_alive_s = 5\n'
    )
    host = host_settings(config_of(tmp_path, text))
    assert host.threads == 3
    assert host.providers == ("OpenVINOExecutionProvider", "CPUExecutionProvider")
    assert (host.batch_tokens, host.keep_alive_s) == (99, 5)


@pytest.mark.parametrize(
    "text", ['execution_providers = ["gpu"]', "execution_providers = []", "keep_alive_s = -0.5", "batch_tokens = 0"]
)
def test_wrong_settings_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=f"line 2: small_models.{text.partition(' ')[0]}"):
        config_of(tmp_path, f"[small_models]\n{text}\n")


async def test_the_gateway_asks_them_itself() -> None:
    found = [Chunk(i, finish_reason="stop", wire={"probabilities": {"leak": i / 4}}) for i in range(2)]
    run = runner({"leaks": FakeBackend("leaks", lambda _: [*found, Usage(7, 0)])})
    request = Request("r", "leaks", "classification", prompts=("a", "b"))
    assert await run("leaks", request) == ([{"probabilities": {"leak": 0.0}}, {"probabilities": {"leak": 0.25}}], 7)
    with pytest.raises(ModelNotFound, match="outstation pull drips"):
        await run("drips", request)


async def test_another_version_takes_the_place_of_what_is_in_memory(tmp_path: Path) -> None:
    """Without a restart or a reload: the real process, and a head that is replaced in the store."""
    folder = put_head(tmp_path, 1.0)
    config, pool = config_of(tmp_path), Pool()
    (backend,) = build_backends(config, pool)
    request = Request("r", "head", "classification", prompts=(Features((1.0, 0.0, 0.0, 0.0)),))
    try:
        before, _ = await runner({"head": backend})("head", request)
        await asyncio.to_thread(put_head, tmp_path, -1.0)
        await asyncio.sleep(2 * LOOK_S)
        after, _ = await runner({"head": backend})("head", request)
        (anew,) = build_backends(config, pool)
        again, _ = await runner({"head": anew})("head", request)
    finally:
        await close_all(pool.keep(()))
    assert before[0]["probabilities"]["leak"] == pytest.approx(0.731, abs=0.001)
    assert after[0]["probabilities"]["leak"] == pytest.approx(0.269, abs=0.001)
    assert again == after
    assert folder.is_dir()


def put_head(home: Path, weight: float) -> Path:
    """A head in the store whose first feature counts `weight`; as `outstation pull --force` puts it there."""
    source = write_model(
        home / f"from{weight}" / "head", {"model.onnx": tiny_graph(weight)}, input="features", features=list("abcd")
    )
    for _ in pull_bundle(Store(home), Bundle.in_folder(source), force=True):
        pass
    return Store(home).place("head")

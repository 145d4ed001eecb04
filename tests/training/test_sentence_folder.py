"""Folders of sentence-transformers and transformers: what is read of them, and what is refused unopened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backends.errors import BadModelFile
from backends.sentence_folder import inner_folder, read_folder

CONFIG = {"architectures": ["BertModel"], "model_type": "bert", "hidden_size": 8, "max_position_embeddings": 64}
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]


def write(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))


def make(
    path: Path, config: dict[str, Any] | None = None, modules: list[dict[str, Any]] | None = None, **pooling: Any
) -> Path:
    """A folder without real weights."""
    write(path / "config.json", CONFIG | (config or {}))
    write(path / "tokenizer.json", {})
    (path / "model.safetensors").write_bytes(b"weights")
    if modules is not None:
        write(path / "modules.json", modules)
        write(path / "1_Pooling" / "config.json", pooling or {"pooling_mode_mean_tokens": True})
    return path


def refusal(path: Path, *, serve: bool = False) -> str:
    with pytest.raises(BadModelFile) as caught:
        read_folder(path, serve=serve)
    return caught.value.message


def test_an_embedder(tmp_path: Path) -> None:
    folder = make(tmp_path, modules=MODULES)
    write(folder / "sentence_bert_config.json", {"max_seq_length": 32})
    write(folder / "config_sentence_transformers.json", {"prompts": {"query": "query: ", "passage": "passage: "}})
    (folder / "README.md").write_text("---\nlicense: apache-2.0\ntags:\n- x\n---\n# A model\n")
    found = read_folder(folder)
    assert (found.task, found.pooling, found.normalize, found.dimensions) == ("embed", "mean", True, 8)
    assert (found.max_tokens, found.licence) == (32, "apache-2.0")
    assert (found.query_prefix, found.document_prefix) == ("query: ", "passage: ")


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": ["cls"]}, "cls"),
    ],
)
def test_poolings_old_and_new(tmp_path: Path, config: dict[str, Any], pooling: str) -> None:
    assert read_folder(make(tmp_path, modules=MODULES, **config)).pooling == pooling


def test_a_pooling_that_is_not_exported_is_served(tmp_path: Path) -> None:
    folder = make(tmp_path, modules=MODULES, pooling_mode_max_tokens=True)
    assert "max_tokens" in refusal(folder)
    assert read_folder(folder, serve=True).dimensions == 8


def test_classifiers_and_rerankers(tmp_path: Path) -> None:
    classes = {"architectures": ["BertForSequenceClassification"], "id2label": {"1": "leak", "0": "pump", "10": "x"}}
    found = read_folder(make(tmp_path / "a", classes))
    assert (found.task, found.labels, found.exclusive) == ("classify", ("pump", "leak", "x"), True)
    many = make(tmp_path / "b", classes | {"problem_type": "multi_label_classification"})
    assert not read_folder(many).exclusive
    one = make(tmp_path / "c", classes | {"id2label": {"0": "LABEL_0"}})
    assert read_folder(one).task == "rerank"


def test_a_plain_folder_does_not_say_its_pooling(tmp_path: Path) -> None:
    assert read_folder(make(tmp_path)).pooling is None


def test_positions_of_roberta_begin_behind_the_padding(tmp_path: Path) -> None:
    assert read_folder(make(tmp_path, {"model_type": "roberta", "max_position_embeddings": 514})).max_tokens == 512


def test_pickles_are_refused_with_the_way_out(tmp_path: Path) -> None:
    folder = make(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    said = refusal(folder)
    assert "pytorch_model.bin" in said
    assert "can run code" in said
    assert "safetensors" in said


def test_a_dense_layer_as_a_pickle_is_refused_too(tmp_path: Path) -> None:
    dense = {"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"}
    folder = make(tmp_path, modules=[*MODULES, dense])
    write(folder / "3_Dense" / "config.json", {"in_features": 8, "out_features": 4})
    (folder / "3_Dense" / "pytorch_model.bin").write_bytes(b"")
    assert "Dense" in refusal(folder)  # not exported at all
    assert "pytorch_model.bin" in refusal(folder, serve=True)
    (folder / "3_Dense" / "model.safetensors").write_bytes(b"")
    assert read_folder(folder, serve=True).dimensions == 4


@pytest.mark.parametrize(
    "kind", ["modeling_evil.Transformer", "sentence_transformers.util.Evil", "os.system", "evil.Pooling", ""]
)
def test_modules_of_other_packages_are_refused(tmp_path: Path, kind: str) -> None:
    modules = [MODULES[0], MODULES[1] | {"type": kind}]
    assert "is not one of" in refusal(make(tmp_path, modules=modules))
    assert "is not one of" in refusal(tmp_path, serve=True)


@pytest.mark.parametrize("place", ["../elsewhere", "/etc", "a/../../b"])
def test_modules_outside_the_folder_are_refused(tmp_path: Path, place: str) -> None:
    modules = [MODULES[0], MODULES[1] | {"path": place}]
    assert "outside" in refusal(make(tmp_path, modules=modules))


def test_code_of_its_own_is_refused(tmp_path: Path) -> None:
    assert "never run" in refusal(make(tmp_path, {"auto_map": {"AutoModel": "modeling_x.Model"}}))


def test_the_transformer_may_lie_in_a_folder_of_its_own(tmp_path: Path) -> None:
    modules = [MODULES[0] | {"path": "0_Transformer"}, *MODULES[1:]]
    make(tmp_path, modules=modules)
    assert "0_Transformer" in refusal(tmp_path)
    make(tmp_path / "0_Transformer")
    assert inner_folder(read_folder(tmp_path)) == tmp_path / "0_Transformer"


def test_what_is_no_model_folder(tmp_path: Path) -> None:
    assert "no folder" in refusal(tmp_path / "nowhere")
    assert "config.json" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "no JSON" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    assert "no object" in refusal(tmp_path)
    write(tmp_path / "config.json", CONFIG)
    assert "no model.safetensors" in refusal(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "tokenizer.json" in refusal(tmp_path)
    write(tmp_path / "tokenizer.json", {})
    write(tmp_path / "modules.json", {})
    assert "no list" in refusal(tmp_path)
    write(tmp_path / "config.json", CONFIG | {"architectures": ["LlamaForCausalLM"]})
    (tmp_path / "modules.json").unlink()
    assert "LlamaForCausalLM" in refusal(tmp_path)

"""What a small model is, and how it is run: `manifest.json` beside its files. Untrusted input, like the files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from backends.errors import BadModelFile

FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MANIFEST = "manifest.json"
MOST_MANIFEST_BYTES = 1 << 20

Task = Literal["embed", "rerank", "classify", "find"]
"""`find`: where in a text what stands (a classification of its tokens)."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=f"^{FILE_NAME.pattern}$")]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class File(_Table):
    """One file of the model, in the manifest's folder."""

    sha256: Sha256
    size: int = Field(ge=1)


class Tokenizer(_Table):
    """How text becomes token ids.

    Attributes:
        kind: `huggingface` reads `file` as a `tokenizer.json`; `words` as a JSON object of words to ids, with `filters`
            (characters that become spaces), as Keras does it.
        max_tokens: that the model can take, special ones included.
        pad: to this side, and up to `max_tokens` where the graph wants a fixed length.
        fixed: the graph takes exactly `max_tokens`.
        cut: which end of a text that is too long is kept, where cutting is allowed or the model's own way.
    """

    kind: Literal["huggingface", "words"] = "huggingface"
    file: FileName = "tokenizer.json"
    max_tokens: int = Field(ge=1, le=1 << 20)
    pad: Literal["left", "right"] = "right"
    fixed: bool = False
    cut: Literal["head", "tail"] = "head"


class ImageInput(_Table):
    """How a picture becomes a tensor [1, 3, size, size] of float32: the shorter side is scaled to `size / crop`, the
    middle is cut out, and each channel becomes (value - mean) / scale, of values 0 to 255."""

    size: int = Field(ge=8, le=4096)
    crop: float = Field(default=1.0, gt=0, le=1)
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: tuple[float, float, float] = (255.0, 255.0, 255.0)


class Metric(_Table):
    """A figure that was measured when the model was made, and on what."""

    name: str
    value: float
    on: str = ""


class Manifest(_Table):
    """One model.

    Attributes:
        version: of the model; told with each answer.
        files: by name; the graph is among them.
        input: what it sees. `embedding`: the vector that the model `base` makes of a text.
        pooling: from [batch, tokens, dimensions] to [batch, dimensions]; `none`: the graph does it.
        query_prefix, document_prefix: texts that the model wants before what it embeds.
        activation: from the graph's output to probabilities. `none`: they are probabilities already.
        exclusive: exactly one label is right (they sum to 1); otherwise each is judged alone.
        temperature, bias: calibration: logits are divided by the one after the other was added.
        thresholds: by label, the probability from which it counts as found.
        confidence: below this probability of the best label, the answer is unsure (a classifier may pass it on).
        categories: of OpenAI's moderation categories, the label that judges each; the others it cannot judge.
        metrics: how good it is.
    """

    name: str
    version: str = "1"
    description: str = ""
    task: Task
    files: Mapping[FileName, File]
    graph: FileName = "model.onnx"
    input: Literal["text", "image", "features", "embedding"] = "text"
    tokenizer: Tokenizer | None = None
    image: ImageInput | None = None
    features: tuple[str, ...] = ()
    base: str = ""
    pooling: Literal["cls", "mean", "none"] = "none"
    normalize: bool = False
    dimensions: int = Field(default=0, ge=0)
    query_prefix: str = ""
    document_prefix: str = ""
    output: str = ""
    labels: tuple[str, ...] = ()
    activation: Literal["softmax", "sigmoid", "none"] = "none"
    exclusive: bool = True
    temperature: float = Field(default=1.0, gt=0)
    bias: tuple[float, ...] = ()
    thresholds: Mapping[str, float] = {}
    confidence: float = Field(default=0.0, ge=0, le=1)
    categories: Mapping[str, str] = {}
    licence: str = ""
    source: str = ""
    metrics: tuple[Metric, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> Manifest:
        wanted = [self.graph] + ([self.tokenizer.file] if self.tokenizer else [])
        if missing := [name for name in wanted if name not in self.files]:
            raise ValueError(f"`files` lacks {', '.join(missing)}")
        if self.input == "text" and self.tokenizer is None:
            raise ValueError("a model of text needs a `tokenizer`")
        if self.input == "image" and self.image is None:
            raise ValueError("a model of images needs `image`")
        if self.input == "features" and not self.features:
            raise ValueError("a model of features needs their names in `features`")
        if self.input == "embedding" and not self.base:
            raise ValueError("a model of embeddings needs its `base`, the model that makes them")
        if self.task in ("classify", "find") and not self.labels:
            raise ValueError("a classifier needs `labels`")
        if unknown := (set(self.thresholds) | set(self.categories.values())) - set(self.labels):
            raise ValueError(f"no such label: {', '.join(sorted(unknown))}")
        return self


def read_manifest(folder: Path) -> Manifest:
    """The manifest in a model's folder.

    Raises:
        BadModelFile: there is none, or it is wrong; the message names the field.
    """
    path = folder / MANIFEST
    try:
        if path.stat().st_size > MOST_MANIFEST_BYTES:
            raise BadModelFile(f"{path} is too large for a manifest.")
        return Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BadModelFile(f"{path} cannot be read: {error.strerror or error}.") from None
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in problem["loc"]) or "as a whole"
        raise BadModelFile(f"{path}: {place}: {problem['msg']}.") from None

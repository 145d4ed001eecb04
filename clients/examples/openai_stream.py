"""Print the answer word by word as it is computed: python openai_stream.py [QUESTION]"""

import os
import sys

from openai import APIError, OpenAI

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8484/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),  # needed only where the gateway has keys
)
question = sys.argv[1] if len(sys.argv) > 1 else "What does a check valve do?"

stream = client.chat.completions.create(
    model="auto",
    messages=[{"role": "user", "content": question}],
    max_tokens=64,
    stream=True,
    stream_options={"include_usage": True},
    extra_body={"outstation": {"locality": "only_local"}},  # this question stays on the box
)
try:
    for chunk in stream:
        for choice in chunk.choices:
            print(choice.delta.content or "", end="", flush=True)
        if chunk.usage:
            cached = chunk.usage.prompt_tokens_details.cached_tokens
            print(f"\n{chunk.usage.completion_tokens} tokens, {cached} of the prompt from the cache", file=sys.stderr)
except APIError as error:  # also what breaks off in the middle arrives here, never as a complete answer
    sys.exit(f"\nThe answer broke off: {error.message}")

"""Ask the box a question with the official SDK: python openai_chat.py [QUESTION]"""

import os
import sys

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8484/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),  # needed only where the gateway has keys
)
question = sys.argv[1] if len(sys.argv) > 1 else "What does a check valve do?"

answer = client.chat.completions.with_raw_response.create(
    model="auto",
    messages=[
        {"role": "system", "content": "You help technicians at a pumping station. Answer in one sentence."},
        {"role": "user", "content": question},
    ],
    max_tokens=64,
)
completion = answer.parse()
print(completion.choices[0].message.content)
print(f"answered by {answer.headers['x-outstation-route']}, {completion.usage.total_tokens} tokens", file=sys.stderr)

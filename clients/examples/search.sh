#!/bin/sh
# Embeddings and reranking with curl: sh search.sh [QUESTION]
set -eu
url="${OPENAI_BASE_URL:-http://127.0.0.1:8484/v1}"
question="${1:-Why is the floor below the pump wet?}"
auth="Authorization: Bearer ${OPENAI_API_KEY:-none}" # needed only where the gateway has keys
# Quotes and backslashes must be escaped inside JSON.
quoted=$(printf '%s' "$question" | sed 's/[\\"]/\\&/g')

echo "# the first numbers of the question's vector"
curl -fsS -H "$auth" -H "Content-Type: application/json" "$url/embeddings" \
  -d "{\"model\": \"auto\", \"input\": \"$quoted\", \"input_type\": \"query\", \"dimensions\": 8}"
echo
echo "# documents, the most relevant first"
curl -fsS -H "$auth" -H "Content-Type: application/json" "$url/rerank" \
  -d "{\"model\": \"auto\", \"query\": \"$quoted\", \"top_n\": 2, \"documents\": [
    \"The canteen is open from eleven to two.\",
    \"Water under the pump comes from the shaft seal: replace it.\",
    \"Check the oil once a month.\"]}"
echo

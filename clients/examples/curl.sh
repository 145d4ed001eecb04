#!/bin/sh
# Everything is plain HTTP: sh curl.sh [QUESTION]
set -eu
url="${OPENAI_BASE_URL:-http://127.0.0.1:8484/v1}"
question="${1:-What does a check valve do?}"
auth="Authorization: Bearer ${OPENAI_API_KEY:-none}" # needed only where the gateway has keys
# Quotes and backslashes must be escaped inside JSON.
quoted=$(printf '%s' "$question" | sed 's/[\\"]/\\&/g')

echo "# the models"
curl -fsS -H "$auth" "$url/models"
echo
echo "# a chat"
curl -fsS -H "$auth" -H "Content-Type: application/json" "$url/chat/completions" \
  -d "{\"model\": \"auto\", \"max_tokens\": 48, \"messages\": [{\"role\": \"user\", \"content\": \"$quoted\"}]}"
echo
echo "# the same, streamed"
curl -fsSN -H "$auth" -H "Content-Type: application/json" "$url/chat/completions" \
  -d "{\"model\": \"auto\", \"max_tokens\": 16, \"stream\": true, \"messages\": [{\"role\": \"user\", \"content\": \"$quoted\"}]}"

"""`/v1/responses`: items to messages, chunks to events, and what is kept of both."""

"""Answers that must have a form, by providers that only promise it: judged here before anybody sees them."""

"""What an operator makes of own data: heads over local embeddings, and models exported and made smaller. Never served
from: a command runs it, offline, in a process of its own."""

"""The site's documents, as the gateway has them: one library for the process, one way to search it a configuration."""

"""The site's documents. Empty until files and vector stores arrive; the name is kept so that nothing else takes it."""

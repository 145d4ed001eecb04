"""What is kept of documents: files, vector stores, the pieces that are searched, and the work that is left."""

"""Small models that answer in milliseconds (embedders, rerankers, classifiers), on onnxruntime in their own process."""

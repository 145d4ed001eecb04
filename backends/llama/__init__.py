"""Quantized LLMs through llama.cpp, each in a process of its own.

`bindings` is the only importer of llama_cpp. `kv_cache`, `scheduler`, `text` are pure. `engine` is the step loop,
`worker` its process, `supervisor` its life cycle in the gateway, `backend` the `Backend` that dispatch talks to.
"""

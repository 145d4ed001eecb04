"""What reaching a remote inference provider takes: transport, endpoints and their breakers, and reading its answers."""

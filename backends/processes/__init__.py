"""Workers: processes that run native code for the gateway, and what both ends of them have in common."""

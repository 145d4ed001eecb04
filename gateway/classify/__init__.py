"""`POST /v1/classify` behind its door: several models at once, and who is asked when one is not sure."""

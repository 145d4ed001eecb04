"""Side-by-side measurements of the gateway and its peers on one model file. Not part of the product."""

"""Networks of any framework, layer by layer, to what every later step works with."""

"""Original archives of public data sets, turned into what `sources.tfds` reads."""

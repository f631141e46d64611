"""All sources of data by name, as functions `(config.data, seed) -> SourceSplits`."""

from autodo_jax.data.sources import arrays, digits, embeddings, folder, tfds

SOURCES = {
    "arrays": arrays.load,
    "digits": digits.load,
    "embeddings": embeddings.load,
    "folder": folder.load,
    **dict.fromkeys(tfds.NAMES, tfds.load),
}

"""Features of a pretrained network: a head on them, solved in seconds on a laptop.

    python -m autodo_jax.main --config=configs/embeddings.py[:METHOD]
        --config.data.data_dir=PATH

PATH is an .npz file or a folder of .npy files, which stay on the disk, with
`train_features` [N, D], `train_labels` [N], the same of `validation` (small and clean)
and `test`, and optionally `<split>_ids` and `class_names`; or a .parquet file with the
columns `id`, `label`, `split` and `embedding`. Without a validation split, a fifth of
train is taken for it. METHOD is autodo (weights and labels), autodo_s, autodo_w, or a
rival: baseline, clean_only, joined. `--config.model.name=hidden_layer` has one.

Each epoch is one step of Lambda on a solved head. The number of steps is chosen on
folds of the clean set, and the last solve learns from the clean set too; the paper's
protocol is `--config.guard.folds=0 --config.task.joined_epochs=0`.
"""

from autodo_jax.config import default_config, use_features


def get_config(method: str = ""):
    config = default_config()
    config.name = "embeddings"
    config.data.source = "embeddings"
    use_features(config, method)
    return config

"""Handwritten digits, 8x8, part of scikit-learn: nothing to download.

    python -m autodo_jax.main --config=configs/digits.py[:METHOD]

1,797 scans; a quarter is the test set, 60 of the rest are the clean validation set, six
or so of each digit. The train set is distorted: digits 5 to 9 are ten times rarer than
0 to 4 (IR 10), which leaves about 710 points, and 10 % of the labels are redrawn (NR
0.1). The clean points join the train set in the last epochs of methods that learn,
those of rare classes more often. The paper's protocol is
`--config.task.joined_epochs=0`.
"""

from autodo_jax.config import apply_method, default_config


def get_config(method: str = ""):
    config = default_config()
    config.name = "digits"
    config.epochs = 120
    config.batch_size = 64

    config.data.source = "digits"
    config.data.validation_size = 60
    config.data.imbalance_ratio = 10.0
    config.data.noise_ratio = 0.1
    config.data.mean = (0.305,)
    config.data.std = (0.376,)

    config.augment.policy_table = "svhn"  # also digits
    config.augment.rand_magnitude = 5.0  # as for MNIST
    config.augment.crop_padding = 1
    config.augment.erase_probability = 0.0

    config.model.name = "small_cnn"

    config.hyper.start_epoch = 30
    config.task.joined_copies, config.task.plain_share = 0, 1 / 3
    apply_method(config, method, joined_epochs=2 / 3)
    return config

"""MNIST, 28x28 grey: not in the paper; a small network, for a laptop.

    python -m autodo_jax.data.prepare mnist --source=DIR    (once; DIR: the idx files)
    python -m autodo_jax.main --config=configs/mnist.py[:METHOD]

48,000 train and 12,000 validation points of the 60,000, stratified; digits 5 to 9 are
ten times rarer (IR 10), and 10 % of the labels are redrawn (NR 0.1). Fast AutoAugment
and DADA have no policies for MNIST, so theirs for SVHN, also digits, are used.
"""

from autodo_jax.config import apply_method, default_config


def get_config(method: str = ""):
    config = default_config()
    config.name = "mnist"
    config.epochs = 40
    config.data.source = "mnist"
    config.data.imbalance_ratio = 10.0
    config.data.noise_ratio = 0.1
    config.data.mean = (0.1307,)
    config.data.std = (0.3081,)
    config.augment.policy_table = "svhn"
    config.augment.rand_magnitude = 5.0
    config.augment.crop_padding = 0
    config.augment.erase_probability = 0.0
    config.model.name = "small_cnn"
    config.hyper.start_epoch = 10
    apply_method(config, method, num_ops={"randaugment_color": 3})
    return config

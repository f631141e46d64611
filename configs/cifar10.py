"""CIFAR-10, 32x32, ten classes: Table 2 of the paper.

    python -m autodo_jax.data.prepare cifar10 --source=DIR     (once; DIR: the archive)
    python -m autodo_jax.main --config=configs/cifar10.py[:METHOD]

40,000 train and 10,000 validation points of the 50,000, stratified; classes 5 to 9 are
ten times rarer (IR 10), and 10 % of the labels are redrawn (NR 0.1). Published test
errors on them: baseline 22.8 %, autodo 13.1 %.
"""

from autodo_jax.config import apply_method, default_config


def get_config(method: str = ""):
    config = default_config()
    config.name = "cifar10"
    config.data.source = "cifar10"
    config.data.imbalance_ratio = 10.0
    config.data.noise_ratio = 0.1
    config.data.mean = (0.4914, 0.4822, 0.4465)
    config.data.std = (0.2470, 0.2435, 0.2616)
    config.augment.flip = True
    apply_method(config, method)
    return config

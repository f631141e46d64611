"""CIFAR-100, 32x32, a hundred classes: Table 3 of the paper.

    python -m autodo_jax.data.prepare cifar100 --source=DIR    (once; DIR: the archive)
    python -m autodo_jax.main --config=configs/cifar100.py[:METHOD]

40,000 train and 10,000 validation points of the 50,000, stratified; classes 50 to 99
are ten times rarer (IR 10), and 10 % of the labels are redrawn (NR 0.1). Published test
errors on them: baseline 54.5 %, autodo 39.6 %. Fast AutoAugment has no policy for
CIFAR-100, so CIFAR-10's is used.
"""

from autodo_jax.config import apply_method, default_config


def get_config(method: str = ""):
    config = default_config()
    config.name = "cifar100"
    config.data.source = "cifar100"
    config.data.imbalance_ratio = 10.0
    config.data.noise_ratio = 0.1
    config.data.mean = (0.5071, 0.4865, 0.4409)
    config.data.std = (0.2673, 0.2564, 0.2762)
    config.augment.policy_table = "cifar100"
    config.augment.flip = True
    apply_method(config, method)
    return config

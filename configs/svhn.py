"""Street view house numbers, 32x32: Table 1 of the paper.

    python -m autodo_jax.data.prepare svhn --source=DIR    (once; DIR: the .mat files)
    python -m autodo_jax.main --config=configs/svhn.py[:METHOD]

50,000 train and 23,257 validation points of the 73,257, stratified; digits 5 to 9 are a
hundred times rarer (IR 100), and 10 % of the labels are redrawn (NR 0.1). Published
test errors on them: baseline 20.0 %, autodo 6.3 %. `--config.data.extra=True` adds the
extra set's 531,131 points.
"""

from autodo_jax.config import apply_method, default_config


def get_config(method: str = ""):
    config = default_config()
    config.name = "svhn"
    config.data.source = "svhn"
    config.data.validation_size = 23257
    config.data.imbalance_ratio = 100.0
    config.data.noise_ratio = 0.1
    config.data.mean = (0.4377, 0.4438, 0.4728)
    config.data.std = (0.1980, 0.2010, 0.1970)
    config.augment.policy_table = "svhn"
    config.augment.rand_magnitude = 7.0
    config.task.learning_rate = 0.005
    apply_method(config, method, num_ops={"randaugment_color": 3})
    return config

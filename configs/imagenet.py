"""ImageNet, ResNet-18: Table 4 of the paper.

    python -m autodo_jax.data.prepare imagenet --source=DIR   (once; DIR: the tar files)
    python -m autodo_jax.main --config=configs/imagenet.py[:METHOD]

A fifth of the 1,281,167 train images is the validation set, and the published
validation set is the test set. Classes 500 to 999 are ten times rarer (IR 10), and 10 %
of the labels are redrawn (NR 0.1). Published test errors on them: baseline 46.2 %,
autodo 44.1 %.

Images are resized to 256x256 (shorter side resized, centre cut out), whereas the paper
crops from the original. They take 262 GB, so Grain (`pip install -e '.[stream]'`)
decodes them for each batch in `--config.data.num_workers` processes.
`--config.data.max_train_points=N` takes a stratified part; docs/scale.md has the sizes.
"""

from autodo_jax.config import apply_method, default_config


def get_config(method: str = ""):
    config = default_config()
    config.name = "imagenet"
    config.data.source = "imagenet"
    config.data.image_size = (256, 256)
    config.data.stream = True
    config.data.num_workers = 8
    config.data.imbalance_ratio = 10.0
    config.data.noise_ratio = 0.1
    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)
    config.augment.policy_table = "imagenet"
    config.augment.rand_magnitude = 9.0
    config.augment.crop_size = 224
    config.augment.flip = True
    config.augment.erase_probability = 0.0
    config.model.name = "resnet"
    config.model.depth = 18
    config.model.stem = "imagenet"
    config.hyper.start_epoch = 100
    config.hyper.learning_rate = 0.01
    apply_method(config, method, num_ops={"randaugment": 2, "randaugment_color": 2})
    return config

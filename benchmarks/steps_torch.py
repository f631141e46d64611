"""Algorithm 1 in PyTorch, for `steps.py`: network, augmentation, losses, both steps.

It is written as usual in PyTorch: one second-order graph through the head, kept for the
Neumann terms and the mixed derivative, and dense tables of Lambda with torch's own
RMSprop. Modules have the names of the Flax network, whose weights are copied to them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from augment import compose_torch, warp_grid_sample
from torch import nn
from torch.nn import functional

from autodo_jax.augment import affine

OPERATIONS = ("rotate", "scale", "translate_x", "translate_y", "shear_x", "shear_y")


def _conv(inputs: int, outputs: int, size: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)


class _Block(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        convs = [_conv(inputs, width, 3, stride), _conv(width, width, 3, 1)]
        if inputs != width or stride != 1:
            convs.insert(0, _conv(inputs, width, 1, stride))
        for i, conv in enumerate(convs):
            self.add_module(f"Conv_{i}", conv)
        for i, channels in enumerate((inputs, width)):
            self.add_module(f"BatchNorm_{i}", nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts: Any = dict(self.named_children())
        y = functional.celu(parts["BatchNorm_0"](x))
        *shortcut, first, second = (parts[name] for name in parts if "Conv" in name)
        if shortcut:
            x = shortcut[0](y)
        return x + second(functional.celu(parts["BatchNorm_1"](first(y))))


class WideResNet(nn.Module):
    """WRN-depth-width with CELU, like `models.WideResNet`."""

    def __init__(self, num_classes: int, depth: int, width: int):
        super().__init__()
        self.stem = _conv(3, 16, 3, 1)
        inputs, self.num_blocks = 16, 0
        for group in range(3):
            for i in range((depth - 4) // 6):
                outputs = 16 * 2**group * width
                stride = 2 if group > 0 and i == 0 else 1
                block = _Block(inputs, outputs, stride)
                self.add_module(f"blocks_{self.num_blocks}", block)
                inputs, self.num_blocks = outputs, self.num_blocks + 1
        self.norm = nn.BatchNorm2d(inputs)
        self.head = nn.Linear(inputs, num_classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for i in range(self.num_blocks):
            x = getattr(self, f"blocks_{i}")(x)
        return functional.celu(self.norm(x)).mean((2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


def load(model: Any, params: Mapping[str, Any], stats: Mapping[str, Any]) -> None:
    """Copies parameters and running statistics of the Flax network to a module."""
    for name, module in model.named_children():
        if isinstance(module, _Block):
            load(module, params[name], stats[name])
            continue
        found = {key: np.array(value) for key, value in params[name].items()}
        with torch.no_grad():
            if isinstance(module, nn.Conv2d):
                kernel = found["kernel"].transpose(3, 2, 0, 1)
                module.weight.copy_(torch.from_numpy(kernel))
            elif isinstance(module, nn.Linear):
                module.weight.copy_(torch.from_numpy(found["kernel"].T))
                module.bias.copy_(torch.from_numpy(found["bias"]))
            else:
                module.weight.copy_(torch.from_numpy(found["scale"]))
                module.bias.copy_(torch.from_numpy(found["bias"]))
                running = stats[name]
                module.running_mean.copy_(torch.from_numpy(np.array(running["mean"])))
                module.running_var.copy_(torch.from_numpy(np.array(running["var"])))


class Trainer:
    """Both steps of Algorithm 1 on data in memory."""

    def __init__(self, model: Any, tables: Mapping[str, Any], config: Any):
        self.model, self.config = model.to(memory_format=torch.channels_last), config
        self.tables = {
            name: torch.from_numpy(np.array(table)).requires_grad_()
            for name, table in tables.items()
        }
        self.sgd = torch.optim.SGD(
            model.parameters(),
            config.task.learning_rate,
            momentum=config.task.momentum,
            nesterov=True,
            weight_decay=config.task.weight_decay,
        )
        self.rmsprop = torch.optim.RMSprop(
            self.tables.values(), config.hyper.learning_rate, alpha=config.hyper.decay
        )
        self.mean, self.std = (
            torch.tensor(value)[None, :, None, None]
            for value in (config.data.mean, config.data.std)
        )
        priors = [affine.OPERATIONS[name] for name in OPERATIONS]
        self.prior_mean = torch.tensor([[prior.mean for prior in priors]])
        self.prior_range = torch.tensor([[prior.range for prior in priors]])

    def clean(self, images: torch.Tensor) -> torch.Tensor:
        """Returns images uint8 [B, C, H, W] normalized, as for evaluations."""
        return (images.float() / 255 - self.mean) / self.std

    def standard(self, images: torch.Tensor) -> torch.Tensor:
        """Applies a random crop with zero padding, and random erasing to the mean."""
        batch, _, height, width = images.shape
        padding, augment = self.config.augment.crop_padding, self.config.augment
        if padding:
            padded = functional.pad(images, (padding,) * 4)
            top, left = torch.randint(0, 2 * padding + 1, (2, batch, 1, 1))
            rows = top + torch.arange(height)[None, :, None]
            columns = left + torch.arange(width)[None, None, :]
            number = torch.arange(batch)[:, None, None]
            images = padded.permute(0, 2, 3, 1)[number, rows, columns]
            images = images.permute(0, 3, 1, 2)
        if augment.erase_probability:
            area = torch.empty(batch).uniform_(0.02, 0.33) * height * width
            ratio = torch.exp(torch.empty(batch).uniform_(-1.2, 1.2))
            tall = torch.sqrt(area * ratio).clamp(max=height)[:, None]
            wide = torch.sqrt(area / ratio).clamp(max=width)[:, None]
            top = torch.rand(batch, 1) * (height - tall)
            left = torch.rand(batch, 1) * (width - wide)
            y, x = torch.arange(height)[None], torch.arange(width)[None]
            inside = ((y >= top) & (y < top + tall))[:, :, None]
            inside = inside & ((x >= left) & (x < left + wide))[:, None, :]
            chosen = torch.rand(batch, 1, 1) < augment.erase_probability
            images = torch.where((inside & chosen)[:, None], self.mean, images)
        return images

    def learned(
        self, images: torch.Tensor, rows: Mapping[str, torch.Tensor], draws: tuple
    ) -> torch.Tensor:
        """Applies g_A with straight-through gates; logistic and normal draws [B, A]."""
        logistic, normal = draws
        logits = rows["gate"] + logistic
        soft = torch.sigmoid(logits)
        gates = (logits > 0).float() + soft - soft.detach()
        spread = self.prior_range * torch.sigmoid(rows["magnitude"]) * normal
        pull_map = compose_torch(self.prior_mean + gates * spread, images.shape[-1])
        return warp_grid_sample(images, pull_map)

    def inputs(
        self, images: torch.Tensor, rows: Mapping[str, torch.Tensor], draws: tuple
    ) -> torch.Tensor:
        """Returns augmented and normalized images."""
        images = self.standard(images.float() / 255)
        if "gate" in rows:
            images = self.learned(images, rows, draws)
        return (images - self.mean) / self.std

    def loss(
        self, logits: torch.Tensor, rows: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Returns the weighted symmetric KL to the soft labels, mean of the batch."""
        log_p = functional.log_softmax(logits, 1)
        log_q = functional.log_softmax(rows["label"], 1)
        values = ((log_q.exp() - log_p.exp()) * (log_q - log_p)).sum(1) / 2
        if "weight" in rows:
            weights = functional.softplus(rows["weight"]) / np.log(2)
            values = weights.reshape(-1) * values
        return values.mean()

    def draw(self, batch: int) -> tuple:
        """Draws logistic noise of the gates and normal noise of the magnitudes."""
        uniform = torch.rand(batch, len(OPERATIONS)).clamp(1e-7, 1 - 1e-7)
        return torch.logit(uniform), torch.randn(batch, len(OPERATIONS))

    def task_step(self, images: torch.Tensor, index: torch.Tensor) -> None:
        """Takes a task step (Algorithm 1, lines 4-9)."""
        self.model.train()
        with torch.no_grad():
            rows = {name: table[index] for name, table in self.tables.items()}
            inputs = self.inputs(images, rows, self.draw(len(index)))
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        self.sgd.zero_grad(set_to_none=True)
        self.loss(self.model(inputs), rows).backward()
        self.sgd.step()

    def hypergradient(
        self,
        images: torch.Tensor,
        index: torch.Tensor,
        validation: tuple[torch.Tensor, torch.Tensor],
        draws: tuple,
    ) -> list[torch.Tensor]:
        """Returns Eq. 5 for the whole tables, zero except in the rows of the batch."""
        self.model.eval()
        head, hyper = list(self.model.head.parameters()), self.config.hyper
        with torch.no_grad():
            features = self.model.features(
                self.clean(validation[0]).contiguous(memory_format=torch.channels_last)
            )
        outer = functional.cross_entropy(self.model.head(features), validation[1])
        b = torch.autograd.grad(outer, head)
        rows = {name: table[index] for name, table in self.tables.items()}
        inputs = self.inputs(images, rows, draws)
        logits = self.model(inputs.contiguous(memory_format=torch.channels_last))
        inner = self.loss(logits, rows)
        inner = inner + self.config.task.weight_decay / 2 * sum(
            (value**2).sum() for value in head
        )
        gradient = torch.autograd.grad(inner, head, create_graph=True)
        term, total = list(b), list(b)
        for _ in range(hyper.num_terms):
            products = torch.autograd.grad(gradient, head, term, retain_graph=True)
            term = [
                v - hyper.step_size * p for v, p in zip(term, products, strict=True)
            ]
            total = [x + v for x, v in zip(total, term, strict=True)]
        total = [-hyper.step_size * x for x in total]
        return list(torch.autograd.grad(gradient, list(self.tables.values()), total))

    def hyper_step(
        self,
        images: torch.Tensor,
        index: torch.Tensor,
        validation: tuple[torch.Tensor, torch.Tensor],
    ) -> None:
        """Takes a hypergradient step (Algorithm 1, lines 12-19)."""
        found = self.hypergradient(images, index, validation, self.draw(len(index)))
        for table, gradient in zip(self.tables.values(), found, strict=True):
            table.grad = gradient
        self.rmsprop.step()

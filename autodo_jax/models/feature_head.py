"""A head on features that are given, or those of a frozen encoder.

It is linear, or has one hidden layer.

Features are standardised and turned to their principal axes first, which changes
neither what a head can express nor its L2 penalty, and makes its curvature nearly
diagonal. The `mean` [D] and the `axes` [D, R], orthonormal columns divided by the
deviations, are constants of a run, kept as its `batch_stats`. So are the variables of
an encoder: "params" are those of the head alone, the theta of Eq. 5. An encoder that is
not continuously differentiable is nothing to the theorem then.
"""

from typing import Any

import chex
import flax.linen as nn

from autodo_jax.models.network import Activation, Network, widen


class FeatureHead(Network):
    """Softmax regression on principal axes, or a perceptron of one hidden layer.

    Attributes:
      num_classes: C.
      hidden: units of the hidden layer; 0: none.
      activation: of the hidden layer.
      encoder: maps images to features, by its variables in `batch_stats`; None: the
        features are given.
    """

    num_classes: int
    hidden: int = 0
    activation: Activation = nn.celu
    encoder: Network | None = None

    def setup(self) -> None:
        # A convex problem needs no random start.
        init = nn.initializers.lecun_normal() if self.hidden else nn.initializers.zeros
        self.head = nn.Dense(self.num_classes, kernel_init=init)
        if self.hidden:
            self.hidden_layer = nn.Dense(self.hidden)

    def features(self, images: chex.Array, *, train: bool) -> chex.Array:
        """Maps features [B, D], or images, to coordinates on the principal axes [B, R].

        They are features as they are where no axes are known.
        """
        del train
        x = images
        if x.ndim > 2 and self.encoder is not None:
            variables: Any = self.get_variable("batch_stats", "encoder")
            x = self.encoder.apply(variables, x, train=False, method="features")
        x = widen(x)
        if self.has_variable("batch_stats", "axes"):
            x = x - self.get_variable("batch_stats", "mean")[None]
            x = x @ self.get_variable("batch_stats", "axes")
        return x

    def classify(self, features: chex.Array) -> chex.Array:
        """Maps coordinates [B, R] to logits [B, num_classes]."""
        x = features
        if self.hidden:
            x = self.activation(self.hidden_layer(x))
        return self.head(x)

"""Policies against their tables, their distributions and a replay with Pillow."""

import functools
import itertools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from autodo_jax.augment import policies
from tests.augment.test_pil_ops import pillow

FOLDER = Path(policies.__file__).parent / "tables"
FILES = {"fast_autoaugment": "faa.json", "dada": "dada.json"}
# Number of sub-policies, and operations an image gets in the mean.
PUBLISHED = {
    ("dada", "cifar10"): (25, 0.97),
    ("dada", "cifar100"): (25, 1.02),
    ("dada", "imagenet"): (25, 1.00),
    ("dada", "svhn"): (25, 1.01),
    ("fast_autoaugment", "cifar10"): (493, 1.02),
    ("fast_autoaugment", "cifar100"): (493, 1.02),
    ("fast_autoaugment", "imagenet"): (498, 0.92),
    ("fast_autoaugment", "svhn"): (497, 0.96),
}
# (value at level 0, at level 1, has a random sign), in the order of the indices.
RANGES = {
    "ShearX": (-0.3, 0.3, True),
    "ShearY": (-0.3, 0.3, True),
    "TranslateX": (-0.45, 0.45, True),
    "TranslateY": (-0.45, 0.45, True),
    "Rotate": (-30, 30, True),
    "AutoContrast": (0, 1, False),
    "Invert": (0, 1, False),
    "Equalize": (0, 1, False),
    "Solarize": (0, 256, False),
    "Posterize": (4, 8, False),
    "Contrast": (0.1, 1.9, False),
    "Color": (0.1, 1.9, False),
    "Brightness": (0.1, 1.9, False),
    "Sharpness": (0.1, 1.9, False),
    "Cutout": (0, 0.2, False),
    "Identity": (0, 1, False),
}
NAMES = tuple(RANGES)
IS_SIGNED = np.array([is_signed for _, _, is_signed in RANGES.values()])
SUBSET = ("AutoContrast", "Color", "Equalize", "Identity", "Invert", "Sharpness")
RANDAUGMENT = {
    "randaugment": (*SUBSET, "Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"),
    "randaugment_color": SUBSET,
}
DRAWING = tuple(sorted(set(policies.NAMES) - {"none"}))
NUM_DRAWS = 100_000
SIGNIFICANCE = 1e-3


def keys_of(num, seed=0):
    return jax.random.split(jax.random.key(seed), num)


def options_of(policy, table="cifar100", num_ops=2, magnitude=15.0) -> dict[str, Any]:
    return dict(policy=policy, table=table, num_ops=num_ops, magnitude=magnitude)


def draw_all(keys, **options):
    return jax.vmap(lambda key: policies.draw(key, **options))(keys)


@functools.cache
def drawn(policy, table="cifar100", num_ops=2, magnitude=15.0):
    options = options_of(policy, table, num_ops, magnitude)
    draws = draw_all(keys_of(NUM_DRAWS), **options)
    return policies.Draw(*map(np.asarray, draws))


def published(policy, table):
    """The JSON file's [[(name, probability, level), ...], ...]."""
    tables = json.loads((FOLDER / FILES[policy]).read_text())["policies"]
    pairs = tables[table]
    return tables[pairs["ref"]] if isinstance(pairs, dict) else pairs


def sizes(draws):
    """The values without the signs of the operations that have one."""
    return np.where(IS_SIGNED[draws.index], np.abs(draws.value), draws.value)


def value_of(name, level):
    """The value of a published level, without its sign."""
    low, high, is_signed = RANGES[name]
    value = low + level * (high - low)
    return abs(value) if is_signed else value


def p_value(observed, expected):
    """Of the chi-square test; cells with few expected counts are taken together."""
    observed, expected = np.asarray(observed, float), np.asarray(expected, float)
    few = expected < 5
    observed = np.append(observed[~few], observed[few].sum())
    expected = np.append(expected[~few], expected[few].sum())
    used = expected > 0
    assert observed[~used].sum() == 0
    return scipy.stats.chisquare(observed[used], expected[used]).pvalue


@pytest.mark.parametrize(("policy", "table"), sorted(PUBLISHED))
def test_tables_are_the_files(policy, table):
    loaded = policies.load(policy, table)
    pairs = published(policy, table)
    assert len(pairs) == PUBLISHED[policy, table][0] == len(loaded.index)
    for i, pair in enumerate(pairs):
        assert [NAMES[index] for index in loaded.index[i]] == [op[0] for op in pair]
        np.testing.assert_allclose(loaded.probability[i], [op[1] for op in pair], 1e-7)
    got = sizes(loaded)
    expected = [[value_of(name, level) for name, _, level in pair] for pair in pairs]
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)


def test_cifar100_has_cifar10s_policy_of_fast_autoaugment_only():
    for policy, same in (("fast_autoaugment", True), ("dada", False)):
        first, second = (policies.load(policy, f"cifar{n}").value for n in (10, 100))
        assert np.array_equal(first, second) == same


@pytest.mark.parametrize(("policy", "table"), sorted(PUBLISHED))
def test_operations_per_image_are_those_published(policy, table):
    mean = PUBLISHED[policy, table][1]
    probability = np.array(
        [[op[1] for op in pair] for pair in published(policy, table)]
    )
    assert round(probability.sum(axis=1).mean(), 2) == mean
    is_open = drawn(policy, table).index != NAMES.index("Identity")
    patterns = [(first, second) for first in (0, 1) for second in (0, 1)]
    counts = [np.all(is_open == pattern, axis=1).sum() for pattern in patterns]
    chances = [
        np.where(np.array(pattern), probability, 1 - probability).prod(axis=1).mean()
        for pattern in patterns
    ]
    assert p_value(counts, np.array(chances) * NUM_DRAWS) > SIGNIFICANCE
    assert abs(is_open.sum(axis=1).mean() - probability.sum(axis=1).mean()) < 0.01


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize(("policy", "table"), sorted(PUBLISHED))
def test_each_entry_is_applied_as_often_as_its_probability_says(
    policy, table, position
):
    entries = [pair[position] for pair in published(policy, table)]
    # One number for (operation, value without sign); entries may repeat.
    codes = [1000 * NAMES.index(op) + value_of(op, level) for op, _, level in entries]
    cells, cell = np.unique(np.round(codes, 10), return_inverse=True)
    chances = np.bincount(cell, [op[1] for op in entries]) / len(entries)

    draws = drawn(policy, table)
    is_open = draws.index[:, position] != NAMES.index("Identity")
    index, size = draws.index[is_open, position], sizes(draws)[is_open, position]
    got = 1000 * index + size.astype(float)
    nearest = np.searchsorted((cells[1:] + cells[:-1]) / 2, got)
    np.testing.assert_allclose(got, cells[nearest], rtol=0, atol=1e-4)
    counts = np.append(np.bincount(nearest, minlength=len(cells)), (~is_open).sum())
    expected = NUM_DRAWS * np.append(chances, 1 - chances.sum())
    assert p_value(counts, expected) > SIGNIFICANCE


def test_operations_of_probability_zero_never_run_and_of_one_always():
    pairs = published("dada", "cifar100")
    draws = drawn("dada", "cifar100")
    entries = [(pair, i) for pair in pairs for i in (0, 1)]
    never = [(pair, i) for pair, i in entries if pair[i][1] == 0]
    always = [(pair, i) for pair, i in entries if pair[i][1] == 1]
    assert len(never) == 2 and len(always) == 3

    def runs(pair, i):
        name, _, level = pair[i]
        same = np.isclose(sizes(draws)[:, i], value_of(name, level), rtol=1e-5)
        return (draws.index[:, i] == NAMES.index(name)) & same

    for pair, i in never:
        assert runs(pair, 1 - i).any() and not runs(pair, i).any()
    for pair, i in always:
        assert runs(pair, 1 - i).any()
        assert runs(pair, i)[runs(pair, 1 - i)].all()


def test_sub_policies_are_drawn_uniformly():
    size = 497
    table = policies.SubPolicies(
        np.full((size, 2), NAMES.index("Solarize"), np.int32),
        np.tile(np.array([1, 0], np.float32), (size, 1)),
        np.repeat(np.arange(size, dtype=np.float32)[:, None], 2, axis=1),
    )
    draws = jax.vmap(lambda key: policies.draw_sub_policy(key, table))(
        keys_of(NUM_DRAWS)
    )
    assert (draws.index[:, 0] == NAMES.index("Solarize")).all()
    assert (draws.index[:, 1] == NAMES.index("Identity")).all()
    counts = np.bincount(np.asarray(draws.value[:, 0], int), minlength=size)
    assert len(counts) == size
    assert scipy.stats.chisquare(counts).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("policy", sorted(RANDAUGMENT))
def test_randaugment_draws_its_operations_with_replacement(policy):
    index = drawn(policy, num_ops=2).index
    codes = [NAMES.index(name) for name in RANDAUGMENT[policy]]
    counts = [
        np.all(index == pair, axis=1).sum() for pair in itertools.product(codes, codes)
    ]
    assert sum(counts) == NUM_DRAWS
    assert scipy.stats.chisquare(counts).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("magnitude", [7.0, 30.0])
@pytest.mark.parametrize("policy", sorted(RANDAUGMENT))
def test_randaugment_scales_the_range_by_a_uniform_share_of_its_magnitude(
    policy, magnitude
):
    draws = drawn(policy, num_ops=2, magnitude=magnitude)
    for name in RANDAUGMENT[policy]:
        low, high, is_signed = RANGES[name]
        start = 0 if is_signed else low
        span = (high - start) * magnitude / 30
        share = (sizes(draws)[draws.index == NAMES.index(name)] - start) / span
        assert scipy.stats.kstest(share, "uniform").pvalue > SIGNIFICANCE, name
        assert share.min() > -1e-6 and share.max() < 1 + 1e-6


def test_uniform_augment_draws_from_fifteen_and_applies_half():
    index = drawn("uniform_augment", num_ops=2).index
    share = np.full(16, 1 / 30)
    share[NAMES.index("Identity")] = 1 / 2
    counts = np.zeros((16, 16))
    np.add.at(counts, (index[:, 0], index[:, 1]), 1)
    expected = NUM_DRAWS * np.outer(share, share)
    assert p_value(counts.ravel(), expected.ravel()) > SIGNIFICANCE


def test_uniform_augment_draws_levels_uniformly():
    draws = drawn("uniform_augment", num_ops=2)
    for name in NAMES[:-1]:
        low, high, _ = RANGES[name]
        values = draws.value[draws.index == NAMES.index(name)]
        level = (values - low) / (high - low)
        assert scipy.stats.kstest(level, "uniform").pvalue > SIGNIFICANCE, name


@pytest.mark.parametrize("policy", DRAWING)
def test_geometric_operations_get_a_random_sign_and_the_others_none(policy):
    draws = drawn(policy)
    is_signed = IS_SIGNED[draws.index]
    assert (
        draws.value[~is_signed & (draws.index != NAMES.index("Identity"))] >= 0
    ).all()
    values = draws.value[is_signed & (draws.value != 0)]
    if policy == "randaugment_color":
        assert not values.size
        return
    test = scipy.stats.binomtest(int((values < 0).sum()), values.size)
    assert test.pvalue > SIGNIFICANCE


@pytest.mark.parametrize("policy", ["randaugment_color", "uniform_augment"])
def test_both_operations_have_values_of_their_own(policy):
    draws = drawn(policy)
    blends = [NAMES.index(name) for name in ("Color", "Sharpness")]
    first, second = draws.value[np.isin(draws.index, blends).all(axis=1)].T
    assert scipy.stats.pearsonr(first, second).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("policy", ["fast_autoaugment", "randaugment"])
def test_both_operations_have_signs_of_their_own(policy):
    draws = drawn(policy)
    is_signed = (IS_SIGNED[draws.index] & (draws.value != 0)).all(axis=1)
    first, second = np.sign(draws.value[is_signed]).T
    assert scipy.stats.pearsonr(first, second).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("policy", DRAWING)
def test_places_are_uniform(policy):
    place = drawn(policy).place
    assert place.shape == (NUM_DRAWS, 2, 2)
    assert place.min() >= 0 and place.max() < 1
    for column in place.reshape(NUM_DRAWS, 4).T:
        assert scipy.stats.kstest(column, "uniform").pvalue > SIGNIFICANCE
    correlation = np.corrcoef(place.reshape(NUM_DRAWS, 4).T) - np.eye(4)
    assert np.abs(correlation).max() < 0.02


def images_of(batch, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 1, 33)[:, None] * rng.random((batch, 1, 1, channels))
    noisy = 40 + 150 * ramp + rng.normal(0, 15, (batch, 24, 33, channels))
    return np.clip(noisy, 0, 255).astype(np.uint8)


@functools.cache
def augmentation(policy):
    return jax.jit(functools.partial(policies.augment, **options_of(policy)))


def augmented(keys, images, policy):
    return np.asarray(augmentation(policy)(keys, images))


def replayed(draws, images):
    """The images after their operations, one after the other, by Pillow."""
    for i in range(draws.index.shape[1]):
        names = [NAMES[index] for index in np.asarray(draws.index[:, i])]
        values, places = np.asarray(draws.value[:, i]), np.asarray(draws.place[:, i])
        images = pillow(names, images, values, places)
    return images


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", DRAWING)
def test_images_are_those_of_pillow(policy, channels):
    images, keys = images_of(300, channels), keys_of(300, seed=1)
    got = augmented(keys, images, policy)
    assert got.dtype == np.uint8 and got.shape == images.shape
    draws = draw_all(keys, **options_of(policy))
    np.testing.assert_array_equal(got, replayed(draws, images))


@pytest.mark.parametrize("policy", DRAWING)
def test_an_images_operations_depend_on_its_own_key_only(policy):
    images, keys = images_of(300), keys_of(300, seed=2)
    whole = augmented(keys, images, policy)
    order = np.random.default_rng(0).permutation(300)
    permuted = augmented(keys[order], images[order], policy)
    np.testing.assert_array_equal(permuted, whole[order])
    mixed_keys = jnp.concatenate([keys[:150], keys_of(150, seed=3)])
    mixed = augmented(mixed_keys, images, policy)
    np.testing.assert_array_equal(mixed[:150], whole[:150])
    assert (mixed[150:] != whole[150:]).any()


def test_compiled_images_are_the_same():
    images, keys = images_of(300), keys_of(300, seed=4)
    expected = policies.augment(keys, images, **options_of("dada"))
    np.testing.assert_array_equal(augmented(keys, images, "dada"), expected)


def test_compiled_draws_are_the_same_up_to_rounding():
    options, expected = options_of("randaugment"), drawn("randaugment")
    got = jax.jit(lambda keys: draw_all(keys, **options))(keys_of(NUM_DRAWS))
    np.testing.assert_array_equal(got.index, expected.index)
    np.testing.assert_allclose(got.value, expected.value, rtol=1e-6)
    np.testing.assert_array_equal(got.place, expected.place)


def test_without_operations_the_images_stay():
    images = images_of(3)
    same = policies.augment(keys_of(3), images, **options_of("randaugment", num_ops=0))
    np.testing.assert_array_equal(same, images)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.uint8])
def test_none_returns_the_images(dtype):
    images = jnp.asarray(images_of(2), dtype)
    assert policies.augment(keys_of(2), images, **options_of("none")) is images


def test_unknown_names_are_refused_with_the_choices():
    images, keys = images_of(2), keys_of(2)
    with pytest.raises(ValueError, match=r"'autoaugment'.*none, randaugment, .*dada"):
        policies.augment(keys, images, **options_of("autoaugment"))
    for policy in FILES:
        with pytest.raises(ValueError, match=rf"{policy}.*'mnist'.*svhn, .*imagenet"):
            policies.augment(keys, images, **options_of(policy, table="mnist"))

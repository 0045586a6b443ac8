"""What every head promises, and each head against its paper's equation written out in loops.

Every file of ``conf/head`` is tested, so a new head needs no tests of its own for the promises.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor, nn

from factorlm.config.build import make
from factorlm.config.compose import conf_dir
from factorlm.errors import UserError
from factorlm.heads.base import DeepHead, Head, Pairwise, Shape, Terms
from factorlm.heads.fm import FM
from factorlm.models.recommender import Recommender, User

FILES = sorted(path.stem for path in (conf_dir() / "head").glob("*.yaml"))
OPTIONS: dict[str, dict[str, Any]] = {
    "dot with layers": {"hidden": [5, 4]},
    "nfm without layers": {"hidden": []},
    "deepfm without layers": {"hidden": []},
    "xdeepfm of one map": {"maps": [1], "hidden": [3]},
    "dcnv2 of one layer": {"num_layers": 1, "hidden": [5]},
    "finalmlp of uneven heads": {"first_hidden": [7, 6], "second_hidden": [4], "gate_size": 3, "num_heads": 2},
    "afm of one": {"attention_size": 1},
}
HEADS = [*FILES, *OPTIONS]
SHAPES = [Shape(1, 1, 4), Shape(1, 3, 4), Shape(3, 2, 4), Shape(2, 5, 1)]
every_head = pytest.mark.parametrize("name", HEADS)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def partial(name: str, **options: Any) -> Any:
    """The class of a head with the arguments of its file."""
    path = conf_dir() / "head" / f"{name.partition(' ')[0]}.yaml"
    return make(OmegaConf.merge(OmegaConf.load(path), OPTIONS.get(name, {}), options))


def arguments(name: str) -> dict[str, inspect.Parameter]:
    """Of the class of a head, but for the shape."""
    return {key: value for key, value in inspect.signature(partial(name).func).parameters.items() if key != "shape"}


def build(name: str, shape: Shape, dtype: torch.dtype = torch.float32, **options: Any) -> Head:
    """A head whose parameters are all random, those that start at 0 or 1 too."""
    torch.manual_seed(0)
    head: Head = partial(name, **options)(shape).to(dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return head


def terms(head: Head, rows: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Terms:
    """Random terms of all fields."""
    generator = torch.Generator().manual_seed(seed)
    fields, width = head.shape.num_fields, head.factor_width(head.shape)
    linear = torch.randn(rows, fields, generator=generator, dtype=dtype)
    return Terms(linear, torch.randn(rows, fields, width, generator=generator, dtype=dtype))


def divide(head: Head, both: Terms) -> tuple[Terms, Terms]:
    """The user's fields and the item's."""
    users = head.shape.num_user_fields
    return Terms(both.linear[:, :users], both.factors[:, :users]), Terms(
        both.linear[:, users:], both.factors[:, users:]
    )


@pytest.mark.parametrize("file", FILES)
def test_file_lists_every_argument_with_its_default(file: str) -> None:
    content = OmegaConf.to_container(OmegaConf.load(conf_dir() / "head" / f"{file}.yaml"))
    assert isinstance(content, dict)
    assert content.pop("_partial_") is True
    assert str(content.pop("_target_")).startswith(f"factorlm.heads.{file}.")
    defaults = {name: argument.default for name, argument in arguments(file).items()}
    assert {k: list(value) if isinstance(value, tuple) else value for k, value in defaults.items()} == content


@every_head
@every_shape
def test_score_is_one_finite_number_for_each_row(name: str, shape: Shape) -> None:
    head = build(name, shape)
    for rows in (0, 1, 7):
        score = head(*terms(head, rows))
        assert score.shape == (rows,)
        assert score.dtype == torch.float32
        assert score.isfinite().all()


@every_head
@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_gradient_reaches_every_parameter_and_field(name: str, shape: Shape) -> None:
    head = build(name, shape)
    linear, factors = terms(head, 64)
    head(linear.requires_grad_(), factors.requires_grad_()).sum().backward()
    for parameter_name, parameter in head.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name
    assert torch.equal(linear.grad, torch.ones_like(linear))
    if factors.numel():
        assert factors.grad is not None
        assert (factors.grad.abs().sum((0, 2)) > 0).all()


@every_head
@every_shape
def test_the_first_step_can_train_a_fresh_head(name: str, shape: Shape) -> None:
    """No part starts so that nothing moves: from small factors the factors get a gradient."""
    head: Head = partial(name)(shape)
    linear, factors = terms(head, 64)
    factors = (0.01 * factors).requires_grad_()
    head(linear, factors).square().sum().backward()
    assert factors.grad is not None
    assert (factors.grad.abs().sum((0, 2)) > 0).all() or not factors.numel()


@every_head
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@torch.no_grad()
def test_score_of_a_row_does_not_depend_on_the_others(name: str, shape: Shape) -> None:
    head = build(name, shape)
    linear, factors = terms(head, 64)
    scores = head(linear, factors)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(2))
    assert torch.equal(head(linear[order], factors[order]), scores[order])
    alone = Terms(torch.zeros_like(linear), torch.zeros_like(factors))
    for row in (0, 41):
        alone.linear[3], alone.factors[3] = linear[row], factors[row]
        assert head(*alone)[3] == scores[row]
        one = head(linear[row : row + 1], factors[row : row + 1])
        torch.testing.assert_close(one[0], scores[row], rtol=1e-4, atol=1e-5)


@every_head
@every_shape
def test_score_is_the_product_of_the_sides_and_the_deep_part(name: str, shape: Shape) -> None:
    """Ranking: every user against every item."""
    head = build(name, shape, torch.float64)
    user, _ = divide(head, terms(head, 4, torch.float64, seed=3))
    _, item = divide(head, terms(head, 6, torch.float64, seed=4))
    rows, columns = head.user_side(user), head.item_side(item)
    cross = rows.bias.unsqueeze(1) + columns.bias + rows.vectors @ columns.vectors.T
    u, i = torch.cartesian_prod(torch.arange(4), torch.arange(6)).T
    pairs = Terms(user.linear[u], user.factors[u]).join(Terms(item.linear[i], item.factors[i]))
    deep = head.deep(pairs.factors) if isinstance(head, DeepHead) else 0.0
    torch.testing.assert_close(head(*pairs), cross.flatten() + deep)


@every_head
@every_shape
def test_recommender_ranks_by_the_score_of_pairs(name: str, shape: Shape) -> None:
    head = build(name, shape, torch.float64)
    model = Recommender({}, {}, None, head, factor_l2=0.1)
    user, item = divide(head, terms(head, 5, torch.float64))
    cross = model.cross_scores(User(user), item)
    assert cross.shape == (5, 5)
    torch.testing.assert_close(cross.diagonal(), head(*user.join(item)))


@pytest.mark.parametrize("name", [name for name in HEADS if issubclass(partial(name).func, Pairwise)])
@every_shape
def test_pairs_add_up_to_the_score(name: str, shape: Shape) -> None:
    head = build(name, shape, torch.float64)
    assert isinstance(head, Pairwise)
    linear, factors = terms(head, 9, torch.float64)
    if name == "dot with layers":
        with pytest.raises(UserError, match=r"head\.hidden=\[5, 4\]"):
            head.pairs(factors)
        return
    pairs = head.pairs(factors)
    assert pairs.shape == (9, shape.num_fields, shape.num_fields)
    assert torch.equal(pairs, pairs.triu(1))
    torch.testing.assert_close(head.bias + linear.sum(1) + pairs.sum((1, 2)), head(linear, factors))


@every_head
def test_same_seed_makes_the_same_head_and_only_weights_are_saved(name: str) -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        states.append(partial(name)(SHAPES[2]).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert set(states[0]) == {key for key, _ in build(name, SHAPES[2]).named_parameters()}


@pytest.mark.parametrize("name", [name for name in HEADS if "dropout" in arguments(name)])
def test_dropout_acts_in_training_alone(name: str) -> None:
    if name in ("dot", "deepfm without layers"):
        with pytest.raises(UserError, match=r"head\.dropout=0\.5: head\.hidden=\[\] has no layer"):
            build(name, SHAPES[2], dropout=0.5)
        return
    head = build(name, SHAPES[2], dropout=0.5)
    row = terms(head, 16)
    assert not torch.equal(head(*row), head(*row))
    assert torch.equal(head.eval()(*row), head(*row))
    torch.testing.assert_close(head(*row), build(name, SHAPES[2]).eval()(*row))


@pytest.mark.parametrize("name", ["fwfm", "fmfm"])
@every_shape
def test_field_weights_start_as_the_fm(name: str, shape: Shape) -> None:
    head = partial(name)(shape).double()
    row = terms(head, 8, torch.float64)
    torch.testing.assert_close(head(*row), FM(shape).double()(*row))


MISTAKES: list[tuple[str, dict[str, Any], str]] = [
    ("deepfm", {"hidden": [8, 0]}, "head.hidden=[8, 0]"),
    ("nfm", {"dropout": 1.0}, "head.dropout=1.0"),
    ("afm", {"dropout": -0.1}, "head.dropout=-0.1"),
    ("afm", {"attention_size": 0}, "head.attention_size=[0]"),
    ("xdeepfm", {"maps": [0]}, "head.maps=[0]"),
    ("xdeepfm", {"maps": []}, "head.maps=[]"),
    ("dcnv2", {"num_layers": 0}, "head.num_layers=0"),
    ("finalmlp", {"num_heads": 3}, "head.num_heads=3"),
    ("finalmlp", {"gate_size": 0}, "head.gate_size=[0]"),
    ("finalmlp", {"first_hidden": [0]}, "head.first_hidden=[0]"),
    ("dot", {"dropout": 0.5}, "head.dropout=0.5"),
]


@pytest.mark.parametrize(("name", "options", "words"), MISTAKES, ids=lambda value: str(value))
def test_mistakes(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        partial(name, **options)(SHAPES[2])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# The papers' equations, one row at a time: linear [F] and factors [F, W] to a number.


def field_pairs(head: Head) -> Iterator[tuple[int, int, int]]:
    """Number of the pair, f, g."""
    for pair, (f, g) in enumerate(combinations(range(head.shape.num_fields), 2)):
        yield pair, f, g


def network(layers: nn.Module, x: Tensor) -> Tensor:
    """ReLU layers, neuron by neuron."""
    for layer in layers.children():
        if isinstance(layer, nn.Linear):
            x = torch.stack([(x @ layer.weight[n] + layer.bias[n]).clamp(min=0) for n in range(layer.out_features)])
    return x


def linear_equation(head: Any, linear: Tensor, factors: Tensor) -> Tensor:
    return head.bias + sum(linear)


def fm_equation(head: Any, linear: Tensor, factors: Tensor) -> Tensor:
    return head.bias + sum(linear) + sum(factors[f] @ factors[g] for _, f, g in field_pairs(head))


def fwfm_equation(head: Any, linear: Tensor, factors: Tensor) -> Tensor:
    pairs = sum(head.weight[p] * (factors[f] @ factors[g]) for p, f, g in field_pairs(head))
    return head.bias + sum(linear) + pairs


def fmfm_equation(head: Any, linear: Tensor, factors: Tensor) -> Tensor:
    pairs = sum(factors[f] @ head.matrices[p] @ factors[g] for p, f, g in field_pairs(head))
    return head.bias + sum(linear) + pairs


def ffm_equation(head: Any, linear: Tensor, factors: Tensor) -> Tensor:
    k = head.shape.num_factors
    pairs = sum(factors[f, g * k : (g + 1) * k] @ factors[g, f * k : (f + 1) * k] for _, f, g in field_pairs(head))
    return head.bias + sum(linear) + pairs


def dot_equation(head: Any, linear: Tensor, factors: Tensor) -> Tensor:
    users = head.shape.num_user_fields
    if not head.hidden:
        pairs = sum(factors[f] @ factors[g] for f in range(users) for g in range(users, len(factors)))
        return head.bias + sum(linear) + pairs
    towers = []
    for tower, side in ((head.user_tower, factors[:users]), (head.item_tower, factors[users:])):
        _, layers, last = tower
        towers.append(last.weight @ network(layers, torch.cat(list(side))) + last.bias)
    return head.bias + sum(linear) + towers[0] @ towers[1]


def afm_equation(head: Any, linear: Tensor, factors: Tensor) -> Tensor:
    products = [factors[f] * factors[g] for _, f, g in field_pairs(head)]
    h = head.attention_score
    exponentials = [
        (h @ (head.attention.weight @ product + head.attention.bias).clamp(min=0)).exp() for product in products
    ]
    total = sum(exponentials)
    pooled = sum(e / total * product for e, product in zip(exponentials, products, strict=True))
    return head.bias + sum(linear) + head.projection @ pooled


def nfm_equation(head: Any, linear: Tensor, factors: Tensor) -> Tensor:
    pooled = sum(factors[f] * factors[g] for _, f, g in field_pairs(head))
    assert isinstance(pooled, Tensor)
    return head.bias + sum(linear) + head.score @ network(head.layers, pooled)


def deepfm_equation(head: Any, linear: Tensor, factors: Tensor) -> Tensor:
    deep = head.score @ network(head.layers, torch.cat(list(factors)))
    return fm_equation(head, linear, factors) + deep


def xdeepfm_equation(head: Any, linear: Tensor, factors: Tensor) -> Tensor:
    fields, maps, pooled = len(factors), list(factors), []
    for weight in head.compress:
        maps = [
            sum(row[n * fields + f] * maps[n] * factors[f] for n in range(len(maps)) for f in range(fields))
            for row in weight
        ]
        pooled += [one.sum() for one in maps]
    everything = torch.cat([torch.stack(pooled), network(head.layers, torch.cat(list(factors)))])
    return head.bias + sum(linear) + head.score @ everything


def dcnv2_equation(head: Any, linear: Tensor, factors: Tensor) -> Tensor:
    first = torch.cat(list(factors))
    crossed = first
    for layer in head.crosses:
        moved = [layer.weight[n] @ crossed + layer.bias[n] for n in range(len(first))]
        crossed = torch.stack([first[n] * moved[n] + crossed[n] for n in range(len(first))])
    return head.bias + sum(linear) + head.score @ torch.cat([crossed, network(head.layers, first)])


def finalmlp_equation(head: Any, linear: Tensor, factors: Tensor) -> Tensor:
    users, everything = head.shape.num_user_fields, torch.cat(list(factors))
    outputs = []
    for gate, stream, side in (
        (head.first_gate, head.first_stream, factors[:users]),
        (head.second_gate, head.second_stream, factors[users:]),
    ):
        layers, last, _ = gate
        opened = 2 / (1 + (-(last.weight @ network(layers, torch.cat(list(side))) + last.bias)).exp())
        outputs.append(network(stream, opened * everything))
    weights = head.score.split([len(output) for output in outputs])
    score = head.bias + sum(linear)
    heads = [
        list(zip(o.chunk(len(head.bilinear)), w.chunk(len(head.bilinear)), strict=True))
        for o, w in zip(outputs, weights, strict=True)
    ]
    for j, matrix in enumerate(head.bilinear):
        (o1, w1), (o2, w2) = heads[0][j], heads[1][j]
        score = score + w1 @ o1 + w2 @ o2 + o1 @ matrix @ o2
    return score


EQUATIONS: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "linear": linear_equation,
    "fm": fm_equation,
    "fwfm": fwfm_equation,
    "fmfm": fmfm_equation,
    "ffm": ffm_equation,
    "dot": dot_equation,
    "afm": afm_equation,
    "nfm": nfm_equation,
    "deepfm": deepfm_equation,
    "xdeepfm": xdeepfm_equation,
    "dcnv2": dcnv2_equation,
    "finalmlp": finalmlp_equation,
}
FACTORIZED = ["linear", "fm", "fwfm", "fmfm", "ffm", "dot"]
SMALL = {"hidden": [5, 3], "maps": [3, 2], "first_hidden": [5, 4], "second_hidden": [6], "gate_size": 3}


def check_equation(name: str, shape: Shape, seed: int, **options: Any) -> None:
    head = build(name, shape, torch.float64, **options)
    linear, factors = terms(head, 3, torch.float64, seed)
    expected = [EQUATIONS[name.partition(" ")[0]](head, *row) for row in zip(linear, factors, strict=True)]
    torch.testing.assert_close(head(linear, factors), torch.stack(expected))


@pytest.mark.parametrize("name", FACTORIZED)
@settings(max_examples=25, deadline=None)
@given(
    shape=st.builds(Shape, st.integers(1, 4), st.integers(1, 4), st.integers(1, 5)),
    seed=st.integers(0, 1000),
)
def test_factorized_score_is_the_sum_over_pairs(name: str, shape: Shape, seed: int) -> None:
    check_equation(name, shape, seed)


@pytest.mark.parametrize("name", [name for name in HEADS if name in EQUATIONS and name not in FACTORIZED])
@every_shape
@torch.no_grad()
def test_deep_score_is_the_equation(name: str, shape: Shape) -> None:
    check_equation(name, shape, seed=6, **{key: SMALL[key] for key in arguments(name) if key in SMALL})


@pytest.mark.parametrize("name", OPTIONS)
@every_shape
@torch.no_grad()
def test_options_follow_the_equation(name: str, shape: Shape) -> None:
    check_equation(name, shape, seed=7)

"""Masks of a subsidiary network: values, gradient, and that removing what they mask changes no output."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tersa.errors import UsageError
from tersa.models import build
from tersa.models.summary import parameters
from tersa.quant.layers import QuantLinear
from tersa.quant.subsidiary import FilterMask, masks_of, remove_masked_, without_masked

COLOUR = (3, 32, 32)


def masked_(model: nn.Module, every: int = 3) -> nn.Module:
    """Mask every third channel, each layer from another one on; give statistics that are no plain ones."""
    for place, mask in enumerate(masks_of(model)):
        gone = torch.arange(len(mask.latent)) % every == place % every
        mask.latent.data[gone] = -0.5
    model.train()
    with torch.no_grad():
        model(torch.sin(torch.arange(2 * 3 * 32 * 32) * 1.3).view(2, *COLOUR))
    return model.eval()


def images() -> Tensor:
    return torch.cos(torch.arange(4 * 3 * 32 * 32) * 0.77).view(4, *COLOUR)


@pytest.mark.parametrize(
    "spec",
    [
        "cnv+w1a1:mask=subsidiary",
        "vgg-small+w1a1:mask=subsidiary,scale=lab",
        "vgg:11+w2a2:mask=subsidiary",
        "bvgg16+w1a1:mask=subsidiary,last=8/8",
        "sfc+w1a1:mask=subsidiary",
    ],
)
def test_removing_masked_channels_changes_no_logit(spec: str) -> None:
    model = masked_(build(spec, COLOUR, 10))
    before, size = model(images()), parameters(model)
    masks = masks_of(model)
    expected = sum(len(mask.latent) - mask.kept for mask in masks)
    assert remove_masked_(model) == expected > 0
    assert not masks_of(model)
    assert torch.equal(model(images()), before)
    assert parameters(model) < 0.7 * size
    assert model.train()(images()).shape == (4, 10)


def formed(**form: str) -> nn.Module:
    """A masked network whose weights are made otherwise, as a user's own code may make them."""
    model = build("sfc+w1a1:mask=subsidiary", COLOUR, 10)
    for part in model.modules():
        if isinstance(part, QuantLinear):
            part.form = part.form._replace(**form)
    return model


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"scale": "channel"}, "scale=channel"),
        ({"shaping": "standardise"}, "shape=standardise"),
        ({"shaping": "recu", "scale": "channel"}, "scale=channel and shape=recu"),
        ({"bits": "ternary"}, "ternary weights"),
    ],
)
def test_weights_that_depend_on_what_would_go_are_refused(form: dict[str, str], words: str) -> None:
    model = masked_(formed(**form))
    before = model(images())
    with pytest.raises(UsageError, match=f"from a network with {words}: "):
        remove_masked_(model)
    assert masks_of(model)
    assert torch.equal(model(images()), before)


def test_masks_that_mask_nothing_can_always_go() -> None:
    model = formed(scale="channel").eval()
    before = model(images())
    smaller = without_masked(model)
    assert masks_of(model)
    assert not masks_of(smaller)
    assert torch.equal(smaller(images()), before)


def test_the_gradient_is_the_straight_through_one_and_the_pull() -> None:
    mask = FilterMask(4, pull=0.8)
    mask.latent.data.copy_(torch.tensor([0.5, -0.5, 1.0, -2.0]))
    x = torch.tensor([[1.0, -1.0, 1.0, 1.0], [1.0, 1.0, -1.0, 1.0]])
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    (mask(x) * weight).sum().backward()
    through = 0.5 * (weight * x).sum(0) * torch.tensor([1.0, 1.0, 1.0, 0.0])
    torch.testing.assert_close(mask.latent.grad, through + 0.2)


def test_a_stack_of_latents_is_mapped_as_one_by_one() -> None:
    latents = torch.tensor([[0.5, -0.5], [-1.5, 0.25]])
    x = torch.tensor([[2.0, 3.0]])
    mask = FilterMask(2)

    def slope(latent: Tensor) -> Tensor:
        return torch.func.functional_call(mask, {"latent": latent}, (x,)).sum()

    mapped = torch.vmap(torch.func.grad(slope))(latents)
    assert torch.equal(mapped, torch.stack([torch.func.grad(slope)(row) for row in latents]))


def test_a_mask_that_keeps_nothing_is_refused() -> None:
    model = build("sfc+w1a1:mask=subsidiary", COLOUR, 10)
    masks_of(model)[1].latent.data.fill_(-1.0)
    with pytest.raises(UsageError, match="keeps no channel at all"):
        remove_masked_(model)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("bresnet20+w1a1:mask=subsidiary", "for networks without shortcuts"),
        ("cnv+w1a1:mask=subsidiary,scale=xnor", "do not go together"),
        ("sfc+w1a1:mask=subsidiary,scale=channel", "mask=subsidiary and scale=channel do not go together"),
        ("sfc+w1a1:mask=subsidiary,shape=recu,scale=channel", "and scale=channel and shape=recu do not"),
        ("sfc+wta2:mask=subsidiary", "mask=subsidiary and ternary weights do not go together"),
        ("cnv+w1a1:mask=main", "unknown mask 'main'"),
    ],
)
def test_what_cannot_be_masked_is_refused(spec: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build(spec, COLOUR, 10)

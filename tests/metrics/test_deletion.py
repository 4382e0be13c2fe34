import pytest
import torch

from saaae.metrics.deletion import displaced, hide, highest, ssim_without


def test_the_highest_scoring_cells_are_selected_and_at_least_one():
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.3], [4.0, 3.0, 2.0, 1.0]])
    ties = torch.rand(2, 4)
    assert highest(scores, 0.5, ties).tolist() == [[False, True, True, False], [True, True, False, False]]
    assert highest(scores, 0.01, ties).sum(1).tolist() == [1, 1]
    assert highest(scores, 1.0, ties).all()


def test_ties_are_broken_at_random():
    torch.manual_seed(0)
    chosen = highest(torch.ones(4000, 8), 0.25, torch.rand(4000, 8)).float()
    assert (chosen.sum(1) == 2).all()
    assert (chosen.mean(0) - 0.25).abs().max() < 0.03


def test_the_control_is_the_shifted_map():
    torch.manual_seed(0)
    importance = torch.zeros(500, 1, 4, 6)
    importance[:, :, 0, :2] = torch.tensor([1.0, 2.0])  # two adjacent cells
    moved = displaced(importance, torch.rand(500, 1, 4, 6))
    assert moved.shape == importance.shape
    assert (moved.flatten(1).sort(1).values == importance.flatten(1).sort(1).values).all()
    row, column = (moved[:, 0] == 1).nonzero(as_tuple=True)[1:]
    assert (moved[torch.arange(500), 0, row, (column + 1) % 6] == 2).all()  # still adjacent, with wrap-around
    assert torch.bincount(row * 6 + column, minlength=24).min() > 5  # at any position
    vector = displaced(torch.arange(5.0).repeat(100, 1), torch.rand(100, 5))
    assert (vector.sort(1).values == torch.arange(5.0)).all()
    assert len(vector.unique(dim=0)) > 50


def test_all_channels_of_masked_cells_are_set_to_the_prior_mean():
    z = torch.ones(1, 3, 2, 2)
    hidden = hide(z, torch.tensor([[True, False, False, True]]))
    assert hidden[0, :, 0, 0].tolist() == hidden[0, :, 1, 1].tolist() == [0, 0, 0]
    assert hidden[0, :, 0, 1].tolist() == hidden[0, :, 1, 0].tolist() == [1, 1, 1]
    assert hide(torch.ones(1, 4), torch.tensor([[True, False, False, True]])).tolist() == [[0, 1, 1, 0]]
    assert z.min() == 1  # the latent itself is not modified
    mean = torch.arange(12.0).view(1, 3, 2, 2) + 5
    assert torch.equal(hide(z, torch.tensor([[True, False, False, True]]), mean)[0, :, 0, 0], mean[0, :, 0, 0])
    longer = hide(torch.ones(1, 4), torch.tensor([[True, False]]), torch.full((1, 4), 3.0))
    assert longer.tolist() == [[3, 1, 1, 1]]  # what a decoder takes besides is not hidden


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_masking_by_an_informative_map_costs_more_than_by_an_uninformative_one(share):
    g = torch.Generator().manual_seed(0)
    image = torch.zeros(4, 1, 32, 32)
    image[..., :16, :16] = torch.rand(4, 1, 16, 16, generator=g)  # the whole content is in the first quadrant
    known, wrong = (torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.2, 0.3, 0.4]]))

    def decode(z):  # one latent cell per quadrant, which switches it on
        return image * z[:, :1].repeat_interleave(16, 2).repeat_interleave(16, 3)

    z = torch.ones(4, 1, 2, 2)
    ties = torch.rand(4, 4, generator=g)
    important, other = (
        ssim_without(decode, z, highest(scores.expand(4, 4), share, ties), image) for scores in (known, wrong)
    )
    assert (important < other).all()
    torch.testing.assert_close(other, torch.ones(4))

"""Miners against a triple loop; the decided edge cases; memory."""

import pytest
import torch
from torch.nn import functional as F

from cochlea_sb.errors import UserError
from cochlea_sb.training import mining
from cochlea_sb.training.losses import InfoNCE, TripletLoss
from cochlea_sb.training.mining import MiningTally, Negatives


def problem(n=24, n_sounds=10, seed=0):
    """Embeddings of n pairs, the sounds they hold, and each anchor's positive, as training lays them out."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = F.normalize(torch.randn(2 * n, 8, generator=generator), dim=1)
    sounds = torch.randint(n_sounds, (n, 2), generator=generator).repeat(2, 1)
    positives = (torch.arange(2 * n) + n) % (2 * n)
    return embeddings, sounds, positives


def naive(kind, embeddings, sounds, positives, anchor):
    """The rule in words, by loops: (column of the negative, or None)."""
    distance = [float(1 - embeddings[anchor] @ other) for other in embeddings]
    allowed = [j for j in range(len(embeddings)) if not set(sounds[anchor].tolist()) & set(sounds[j].tolist())]
    if not allowed:
        return None
    if kind == "hardest":
        return min(allowed, key=lambda j: distance[j])
    farther = [j for j in allowed if distance[j] > distance[positives[anchor]]]
    return min(farther, key=lambda j: distance[j]) if farther else max(allowed, key=lambda j: distance[j])


@pytest.mark.parametrize("kind", ["semi_hard", "hardest"])
@pytest.mark.parametrize("n_sounds", [2, 4, 10, 100])
def test_miner_equals_a_triple_loop(kind, n_sounds):
    embeddings, sounds, positives = problem(n_sounds=n_sounds)
    distances = mining.cosine(embeddings, embeddings)
    negatives, found, is_semi_hard = getattr(mining, kind)(distances, positives, mining.disjoint(sounds, sounds))
    for anchor in range(len(embeddings)):
        wanted = naive(kind, embeddings, sounds, positives, anchor)
        assert bool(found[anchor]) == (wanted is not None)
        if wanted is not None:
            assert int(negatives[anchor]) == wanted
        if kind == "semi_hard":
            farther = wanted is not None and distances[anchor, wanted] > distances[anchor, positives[anchor]]
            assert bool(is_semi_hard[anchor]) == farther


@pytest.mark.parametrize("miner", [mining.semi_hard, mining.hardest, mining.random])
def test_a_negative_never_shares_a_sound(miner):
    embeddings, sounds, positives = problem(n_sounds=6)
    allowed = mining.disjoint(sounds, sounds)
    negatives, found, _ = miner(mining.cosine(embeddings, embeddings), positives, allowed)
    assert allowed[torch.arange(len(sounds)), negatives][found].all() and found.any()


@pytest.mark.parametrize("miner", [mining.semi_hard, mining.hardest, mining.random])
def test_nothing_allowed_is_found_false_and_backpropagates_zero(miner):
    embeddings = torch.randn(4, 8, requires_grad=True)
    distances = mining.squared_euclidean(F.normalize(embeddings, dim=1), F.normalize(embeddings, dim=1))
    positives = torch.tensor([2, 3, 0, 1])
    nothing = torch.zeros(4, 4, dtype=torch.bool)
    negatives = miner(distances, positives, nothing)
    assert not negatives.found.any() and not negatives.columns.requires_grad
    loss = TripletLoss()(distances, positives, negatives)
    loss.backward()
    assert float(loss.detach()) == 0 and torch.equal(embeddings.grad, torch.zeros_like(embeddings))


def test_where_no_negative_is_farther_the_farthest_is_taken():
    distances = torch.tensor([[0.0, 0.9, 0.5, 0.2]])
    allowed = torch.tensor([[False, False, True, True]])
    negatives = mining.semi_hard(distances, torch.tensor([1]), allowed)
    assert [part.tolist() for part in negatives] == [[2], [True], [False]]
    tally = MiningTally()
    tally.add(negatives)
    tally.add(mining.hardest(distances, torch.tensor([1]), allowed))  # knows no semi-hard negatives
    assert tally.shares() == {"semi-hard": 0.0, "fallback": 1.0} and tally.shares() == {}


def test_random_draws_every_allowed_negative_equally():
    allowed = torch.tensor([[False, True, True, False, True]])
    draws = [int(mining.random(torch.rand(1, 5), torch.tensor([0]), allowed).columns) for _ in range(600)]
    counts = torch.bincount(torch.tensor(draws), minlength=5)
    assert counts[[0, 3]].sum() == 0 and (counts[[1, 2, 4]] > 140).all()


def test_distances():
    anchors, others = F.normalize(torch.randn(5, 8), dim=1), F.normalize(torch.randn(7, 8), dim=1)
    torch.testing.assert_close(mining.squared_euclidean(anchors, others), torch.cdist(anchors, others).square())
    torch.testing.assert_close(
        mining.cosine(anchors, others), 1 - F.cosine_similarity(anchors[:, None], others[None], dim=2)
    )


def test_triplet_loss_is_the_mean_hinge_of_what_was_found():
    distances = torch.tensor([[0.5, 0.3], [0.1, 0.9], [9.0, 0.0]])
    allowed = torch.tensor([[False, True], [False, True], [False, False]])
    negatives = Negatives(torch.tensor([1, 1, 0]), allowed.any(1))
    loss = TripletLoss(margin=0.1)(distances, torch.zeros(3, dtype=torch.int64), negatives)
    assert float(loss) == pytest.approx((0.3 + 0.0) / 2)


def test_info_nce_is_a_softmax_over_the_positive_and_what_is_allowed():
    distances = torch.rand(6, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    positives = torch.tensor([1, 0, 3, 2, 5, 4])
    allowed = mining.disjoint(positives[:, None] // 2, torch.arange(6)[:, None] // 2)
    loss = InfoNCE(0.3)(distances, positives, allowed)
    expected = 0
    for row in range(6):
        right = torch.exp(-distances[row, positives[row]] / 0.3)
        wrong = sum(torch.exp(-distances[row, column] / 0.3) for column in range(6) if allowed[row, column])
        expected -= torch.log(right / (right + wrong)) / 6
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert not distances.grad.diagonal().any()  # an anchor is no candidate of its own
    with pytest.raises(UserError, match="temperature is 0"):
        InfoNCE(0)


def test_all_semi_hard_negatives_count_alike():
    generator = torch.Generator().manual_seed(0)
    distances = torch.rand(6, 6, generator=generator, requires_grad=True)
    positives = torch.tensor([1, 0, 3, 2, 5, 4])
    allowed = mining.disjoint(positives[:, None] // 2, torch.arange(6)[:, None] // 2)
    chosen = mining.every_semi_hard(distances, positives, allowed)
    expected = 0
    for row in range(6):
        near = distances[row, positives[row]]
        hinges = [
            near - distances[row, column] + 0.3
            for column in range(6)
            if allowed[row, column] and near < distances[row, column] < near + 0.3
        ]
        assert [column for column in range(6) if chosen[row, column]] == [
            column for column in range(6) if allowed[row, column] and distances[row, column] > near
        ]
        expected += sum(hinges) / max(1, len(hinges)) / 6
    loss = TripletLoss(0.3)(distances, positives, chosen)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert distances.grad.isfinite().all() and distances.grad.any()


def test_a_loss_with_a_miner_of_another_kind_is_one_sentence():
    distances, positives, allowed = torch.rand(2, 2), torch.tensor([1, 0]), torch.eye(2, dtype=torch.bool)
    with pytest.raises(UserError, match="InfoNCE needs all negatives"):
        InfoNCE()(distances, positives, mining.hardest(distances, positives, allowed))

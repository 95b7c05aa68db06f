"""The bias of relative positions, pair by pair."""

from __future__ import annotations

import torch

from vitadapt.nn.relative import RelativeBias, resample_table


def test_a_pair_of_places_has_the_row_of_its_difference_and_the_class_token_three_of_its_own() -> None:
    module = RelativeBias(3, 2)
    torch.nn.init.normal_(module.table, generator=torch.Generator().manual_seed(0))
    table, bias = module.table.detach(), module((3, 3), 12).detach()
    places = [(y, x) for y in range(3) for x in range(3)]
    for i, (y, x) in enumerate(places, 1):
        assert torch.equal(bias[:, 0, i], table[-3]) and torch.equal(bias[:, i, 0], table[-2])
        for j, (v, u) in enumerate(places, 1):
            assert torch.equal(bias[:, i, j], table[:-3].unflatten(0, (5, 5))[y - v + 2, x - u + 2])
    assert torch.equal(bias[:, 0, 0], table[-1])
    assert bias.shape == (2, 12, 12) and not bias[:, 10:].any() and not bias[:, :, 10:].any()  # added tokens


def test_a_grid_of_another_shape_has_differences_of_its_own() -> None:
    module = RelativeBias(3, 1)
    with torch.no_grad():
        module.table.copy_(torch.arange(28.0)[:, None])
        bias = module((2, 3), 7)[0]
    resized = resample_table(module.table.detach(), (2, 3))
    assert resized.shape == (3 * 5 + 3, 1) and torch.equal(resized[-3:], module.table[-3:])
    rows = resized[:-3, 0].unflatten(0, (3, 5))
    for i, (y, x) in enumerate([(y, x) for y in range(2) for x in range(3)], 1):
        for j, (v, u) in enumerate([(v, u) for v in range(2) for u in range(3)], 1):
            assert bias[i, j] == rows[y - v + 1, x - u + 2]
    assert torch.allclose(rows[1], torch.arange(10.0, 15.0))  # a column that stays in the middle keeps its values

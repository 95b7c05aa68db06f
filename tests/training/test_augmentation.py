"""Random changes of training images: what they leave alone, and what they depend on."""

from __future__ import annotations

import pytest
import torch

from vitadapt.training.augmentation import jitter


def pictures(count: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 12, 12), dtype=torch.uint8, generator=generator)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_no_amount_and_no_flip_change_nothing() -> None:
    images = pictures()
    torch.testing.assert_close(jitter(images, 0.0, False, seeded()), images / 255, rtol=0, atol=1e-6)
    torch.testing.assert_close(jitter(images / 255, 0.0, False, seeded()), images / 255, rtol=0, atol=1e-6)


def test_flip_alone_mirrors_about_half_of_the_images_and_nothing_else() -> None:
    images = pictures()
    changed = jitter(images, 0.0, True, seeded())
    unchanged = [torch.allclose(a, b / 255, atol=1e-5) for a, b in zip(changed, images, strict=True)]
    mirrored = [torch.allclose(a, b.flip(-1) / 255, atol=1e-5) for a, b in zip(changed, images, strict=True)]
    assert all(a != b for a, b in zip(unchanged, mirrored, strict=True))
    assert 16 < sum(mirrored) < 48


@pytest.mark.parametrize("amount", [0.05, 0.3])
def test_a_dot_moves_no_further_than_promised(amount: float) -> None:
    side = 101
    images = torch.zeros(200, 3, side, side)
    images[:, :, side // 2 - 1 : side // 2 + 2, side // 2 - 1 : side // 2 + 2] = 1.0
    changed = jitter(images, amount, True, seeded())[:, 0]
    places = torch.arange(side, dtype=torch.float32) - side // 2
    mass = changed.sum(dim=(1, 2))
    found = torch.stack([(changed.sum(1) * places).sum(1) / mass, (changed.sum(2) * places).sum(1) / mass])
    limit = amount / 2 * side * torch.tensor(amount).exp()  # the shift is magnified with the image
    assert found.abs().max() <= limit + 1 and found.abs().max() > 0.6 * amount / 2 * side


def test_the_seed_alone_decides_and_every_image_is_changed_by_itself() -> None:
    same = pictures(1).expand(8, -1, -1, -1)
    first = jitter(same, 0.2, True, seeded(3))
    assert torch.equal(first, jitter(same, 0.2, True, seeded(3)))
    assert not torch.equal(first, jitter(same, 0.2, True, seeded(4)))
    assert len({tuple(image.flatten().tolist()) for image in first}) == 8
    assert first.min() >= 0 and first.max() <= 1

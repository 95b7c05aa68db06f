"""How unlike the training images an image is, from its features; and how far other images of their kind were."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from .matmul import full_precision


class Novelty(nn.Module):
    """features (B, E) -> (B,) how unlike the training images they are: the relative Mahalanobis distance (Ren et al.
    2021, 2106.09022), to the nearest class mean less that to the mean of all.

    With h = f - centre, class means m_c (E,) around the same centre, W (K, E) axes along which images of one class
    differ, T (J, E) axes along which all images differ, and inverse variances a, b along all others (`scales`):

        novelty(f) = a min_c (|h - m_c|^2 - |W (h - m_c)|^2) - b (|h|^2 - |T h|^2).

    Of images left out in cross-validation, ascending: left_out (n,), their novelty, and nonconformity (m,), 1 minus the
    probability of their label. Raises ValueError for shapes that do not fit one another.
    """

    def __init__(
        self,
        centre: Tensor,
        means: Tensor,
        within: Tensor,
        total: Tensor,
        scales: Tensor,
        left_out: Tensor,
        nonconformity: Tensor,
    ) -> None:
        super().__init__()
        tensors = {"centre": centre, "means": means, "within": within, "total": total, "scales": scales}
        tensors |= {"left_out": left_out, "nonconformity": nonconformity}
        rows, width = [len(t) if t.ndim == 2 else 0 for t in (means, within, total)], len(centre)
        shapes = [(width,), *((count, width) for count in rows), (2,), (len(left_out),), (len(nonconformity),)]
        if [tuple(t.shape) for t in tensors.values()] != shapes or not len(means):
            raise ValueError("shapes that do not fit one another")
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.detach().float().cpu().contiguous().clone())

    def left_out_scores(self) -> npt.NDArray[np.float32]:
        """`left_out` as an array."""
        return np.asarray(cast(Tensor, self.left_out).cpu().numpy())

    def nonconformity_scores(self) -> npt.NDArray[np.float32]:
        """`nonconformity` as an array."""
        return np.asarray(cast(Tensor, self.nonconformity).cpu().numpy())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Novelty:
        """Goes to other devices, and stays in float32."""
        for name, tensor in list(self.named_buffers()):
            setattr(self, name, tensor.to(fn(tensor).device))
        return self

    def forward(self, features: Tensor) -> Tensor:
        with full_precision(features.device.type):
            centre, means, within, total, scales = (cast(Tensor, getattr(self, name)) for name in _TENSORS)
            h, (a, b) = features.float() - centre, scales.unbind()
            along, means_along = h @ within.T, means @ within.T  # (B, K), (C, K)
            offsets = means.square().sum(dim=1) - means_along.square().sum(dim=1)
            nearest = (offsets - 2 * (h @ means.T - along @ means_along.T)).amin(dim=1)
            far = h.square().sum(dim=1)
            own = far - along.square().sum(dim=1) + nearest
            return a * own - b * (far - (h @ total.T).square().sum(dim=1))


_TENSORS = ("centre", "means", "within", "total", "scales")

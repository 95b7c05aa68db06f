"""Text towers in the layouts of OpenAI's CLIP, open_clip and Hugging Face, in both directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..nn.surgery import State
from ..nn.text_transformer import TextConfig, TextTransformer
from ..utils.errors import WeightsError, damaged
from ..weights import openai_clip
from ..weights.hints import filled
from ..weights.hugging_face import CLIP_LAYERS, block_rules
from ..weights.layout import Layout
from ..weights.rules import Rule, pair


@dataclass(frozen=True)
class TextLayout(Layout):
    """One source's layout of a text tower. `roots` are the first parts of all its names."""

    roots: tuple[str, ...]

    def read(self, state: State, **told: Any) -> tuple[TextConfig, State]:
        """Their tensors -> ours. `told` are the fields of `TextConfig` that tensors do not tell.

        Raises WeightsError for a tensor that is missing, does not fit its siblings or belongs to another network.
        """
        prefix = self.prefix_of(state)
        if prefix is None:
            raise self.another()
        inside = {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}
        if not prefix.endswith("text."):  # the image tower is beside it
            inside = {name: tensor for name, tensor in inside.items() if name.partition(".")[0] in self.roots}
        depth = self.depth_of(inside)
        ours, used = self.renamed(inside, depth)
        self.refuse_foreign(inside.keys() - used)
        with damaged(f"this {self.title}", "it cannot be converted exactly", WeightsError, "is no plain text tower"):
            config = config_of_tensors(ours, depth, **told)
        self.check_shapes(ours, lambda: TextTransformer(config), depth)
        return config, ours

    def write(self, network: TextTransformer, prefix: str | None = None) -> State:
        """The weights of `network` in this layout; merge deltas first. Raises WeightsError."""
        return self.written(network.state_dict(), network.config.depth, self.prefixes[0] if prefix is None else prefix)


def config_of_tensors(ours: State, depth: int, **told: Any) -> TextConfig:
    """The configuration that the shapes of `ours` and `told` describe. Raises ValueError."""
    vocabulary, width = ours["embedding.weight"].shape
    return TextConfig(
        width=width,
        depth=depth,
        context=len(ours["position"]),
        vocabulary=vocabulary,
        projection=len(ours["projection.weight"]) if "projection.weight" in ours else 0,
        projection_bias="projection.bias" in ours,
        hidden=len(ours["blocks.0.mlp.fc1.weight"]),
        layer_scale="blocks.0.scale1.gamma" in ours,
        **told,
    )


def build(config: TextConfig, state: State) -> TextTransformer:
    """A frozen text tower in eval mode holding float32 copies of `state`."""
    return filled(lambda: TextTransformer(config), state)


_OPENAI_ANCHORS = ("token_embedding.weight", "transformer.resblocks.0.attn.in_proj_weight", "ln_final.weight")
OPENAI = TextLayout(
    name="openai-clip",
    title="OpenAI CLIP text tower",
    rules=(
        Rule("embedding.weight", ("token_embedding.weight",)),
        Rule("position", ("positional_embedding",)),
        *(rule for rule in openai_clip.RULES if rule.ours.startswith("blocks.")),
        *pair("norm", "ln_final"),
        Rule("projection.weight", ("text_projection",), "transposed", "absent"),
    ),
    block="transformer.resblocks.",
    anchors=_OPENAI_ANCHORS,
    roots=("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection"),
    prefixes=("", "text.", "module.", "module.text."),
    spare=("attn_mask",),
)
LINEAR = replace(
    OPENAI,
    name="open-clip-linear",
    title="open_clip text tower with a linear projection",
    rules=(*OPENAI.rules[:-1], *pair("projection", "text_projection", missing="absent")),
    anchors=(*_OPENAI_ANCHORS, "text_projection.weight"),
)
"""SigLIP's, whose projection is a layer with a bias."""
DECLIP = replace(
    LINEAR,
    name="declip",
    title="DeCLIP text tower",
    prefixes=tuple(outer + inner for outer in ("", "module.") for inner in ("encode_text.", "text_encoder.")),
)
"""That of DeCLIP and its siblings (Li et al. 2022): as OpenAI's, with a bias, and a token more in its vocabulary."""


def _hugging_face(name: str, projection: str) -> TextLayout:
    inner = "text_model."
    return TextLayout(
        name=name,
        title="Hugging Face text tower",
        rules=(
            Rule("embedding.weight", (inner + "embeddings.token_embedding.weight",)),
            Rule("position", (inner + "embeddings.position_embedding.weight",)),
            *block_rules(inner + "encoder.layers.{i}.", ("layer_norm1", "layer_norm2"), CLIP_LAYERS),
            *pair("norm", inner + "final_layer_norm"),
            *pair("projection", projection, missing="absent"),
        ),
        block=inner + "encoder.layers.",
        anchors=(inner + "embeddings.token_embedding.weight", f"{projection}.weight"),
        roots=("text_model", "text_projection"),
        spare=("*position_ids",),
    )


TEXT_LAYOUTS = {
    layout.name: layout
    for layout in (
        LINEAR,
        OPENAI,
        DECLIP,
        _hugging_face("hf-clip", "text_projection"),
        _hugging_face("hf-siglip", "text_model.head"),
    )
}
"""Name -> layout, in the order in which they are tried."""


def layout_of(state: Mapping[str, Any]) -> TextLayout | None:
    """The layout of the text tower in `state`, where there is a known one."""
    return next((layout for layout in TEXT_LAYOUTS.values() if layout.prefix_of(state) is not None), None)

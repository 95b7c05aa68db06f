"""The canonical text tower computes what each library's own does, and goes back to its tensors bit for bit."""

import pytest
import torch
from text_cases import hf_text_model, open_clip_text, sentences, siglip_folder

from vitadapt.text import load_text_tower
from vitadapt.text.configurations import of_hugging_face, of_open_clip
from vitadapt.text.layouts import build, layout_of
from vitadapt.utils.errors import NotApplicable
from vitadapt.weights import load_backbone
from vitadapt.weights.catalog import backbones

OPEN_CLIP = (
    *("ViT-B-16-quickgelu", "ViT-B-16", "ViT-H-14-worldwide-quickgelu", "EVA02-B-16", "PE-Core-B-16"),
    *("MobileCLIP2-L-14", "ViT-B-16-SigLIP", "ViT-B-16-SigLIP2", "ViT-SO400M-16-SigLIP-i18n-256"),
)
HUGGING_FACE = ("CLIP", "MetaClip2", "Siglip")


def agree(network, tokens, expected, state, layout):
    with torch.no_grad():
        torch.testing.assert_close(network(tokens), expected, atol=1e-5, rtol=0)
    written = layout.write(network, layout.prefix_of(state))
    assert written.keys() <= state.keys() and all(torch.equal(t, state[name]) for name, t in written.items())
    left = [name for name in state.keys() - written.keys() if not name.startswith(("visual", "vision", "logit"))]
    assert left == []


@pytest.mark.parametrize("name", OPEN_CLIP)
def test_open_clip(name):
    model, their = open_clip_text(name)
    told = of_open_clip(model, name)
    prefix = "text." if model.get("custom_text") else ""
    state = {prefix + key: tensor for key, tensor in their.state_dict().items()}
    layout = layout_of(state)
    config, ours = layout.read(state, **told.fields)
    tokens = sentences(config, end=config.end if config.pooling == "end" else 1)
    with torch.no_grad():
        expected = their(tokens)
    agree(build(config, ours), tokens, expected, state, layout)


@pytest.mark.parametrize("kind", HUGGING_FACE)
def test_hugging_face(kind):
    model = hf_text_model(kind)
    state = model.state_dict()
    layout, told = layout_of(state), of_hugging_face(model.config.to_dict(), kind)
    config, ours = layout.read(state, **told.fields)
    tokens = sentences(config, end=model.config.text_config.eos_token_id)
    with torch.no_grad():
        expected = model.get_text_features(input_ids=tokens)
    agree(build(config, ours), tokens, getattr(expected, "pooler_output", expected), state, layout)


def test_siglip_from_open_clip_scores_pairs_as_the_library_does(tmp_path):
    model, name = siglip_folder(tmp_path)
    backbone = load_backbone(name)
    tower = load_text_tower(name, backbone)
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    texts = ["A cat!", "a dog", "two dogs, and a cat"]
    with torch.no_grad():
        theirs = model(backbone.normalise(images), tower.tokenise(texts))
        logits = theirs[2] * theirs[0] @ theirs[1].T + theirs[3]
        pairs = tower.pair_probabilities(backbone(images), tower.encode(texts))
    torch.testing.assert_close(pairs, logits.sigmoid(), atol=1e-5, rtol=0)
    assert torch.equal(tower.tokenise(["A cat!"]), tower.tokenise(["a cat"]))  # as the library cleans texts for it
    assert tower.logit_bias == pytest.approx(float(model.logit_bias.detach()))


def test_only_a_sigmoid_model_scores_pairs():
    backbone = load_backbone("random:tiny-clip")
    tower = load_text_tower("random:tiny-clip", backbone)
    with pytest.raises(NotApplicable, match="softmax"):
        tower.pair_probabilities(torch.ones(1, 48), torch.ones(1, 48))


def test_a_tokeniser_that_cannot_be_had_is_named(tmp_path, monkeypatch):
    _, name = siglip_folder(tmp_path)
    for file in tmp_path.glob("*token*"):
        file.unlink()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(Exception, match="the tokeniser of hf:timm/ViT-B-16-SigLIP"):
        load_text_tower(name, load_backbone(name))


def test_the_catalog_says_which_backbones_have_a_text_tower():
    open_clip = pytest.importorskip("open_clip")
    for row in backbones().values():
        source = next((s for s in row.sources if s.startswith("open_clip:")), "")
        if source:
            arch = source.removeprefix("open_clip:").partition("/")[0]
            assert of_open_clip(open_clip.get_model_config(arch), row.name).fields["heads"] and row.text
        assert not row.text or row.source.startswith(("open_clip:", "hf:", "url:"))

"""Text towers give what the libraries' own models give, and refuse what they could only guess."""

import pytest
import torch
from text_cases import LONG, TEXTS, hf_clip, hf_folder, open_clip_clip, open_clip_folder, openai_file

from vitadapt.text import load_text_tower, overlong
from vitadapt.utils.errors import NotApplicable, WeightsError
from vitadapt.weights import load_backbone


def tower_of(name):
    return load_text_tower(name, load_backbone(name))


@pytest.mark.parametrize("quick", [True, False])
def test_an_openai_file_gives_open_clips_features(tmp_path, quick):
    import open_clip

    model = open_clip_clip(quick)
    tower = tower_of(openai_file(tmp_path, quick))
    tokens = open_clip.SimpleTokenizer()(TEXTS)
    assert torch.equal(tower.tokenise(TEXTS), tokens)
    with torch.no_grad():
        expected = model.encode_text(tokens)
    torch.testing.assert_close(tower.encode(TEXTS), expected, atol=1e-5, rtol=0)
    assert tower.logit_scale == pytest.approx(float(model.logit_scale.detach().exp()))


def test_an_open_clip_folder_gives_the_same(tmp_path):
    tower = tower_of(open_clip_folder(tmp_path))
    with torch.no_grad():
        expected = open_clip_clip().encode_text(tower.tokenise(TEXTS))
    torch.testing.assert_close(tower.encode(TEXTS), expected, atol=1e-5, rtol=0)


def test_a_hugging_face_folder_gives_transformers_features(tmp_path):
    from transformers import AutoTokenizer

    tower = tower_of(hf_folder(tmp_path))
    texts = ["a cat.", "dogs, a type of pet", "abc " * 30]
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path))
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=24, return_tensors="pt")
    with torch.no_grad():
        expected = hf_clip().get_text_features(**inputs)
    expected = getattr(expected, "pooler_output", expected)
    torch.testing.assert_close(tower.encode(texts), expected, atol=1e-5, rtol=0)


def test_image_and_text_of_one_file_live_in_one_space(tmp_path):
    name = openai_file(tmp_path)
    backbone = load_backbone(name)
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = open_clip_clip().encode_image(backbone.normalise(images))
        torch.testing.assert_close(backbone(images), expected, atol=1e-5, rtol=0)
    assert load_text_tower(name, backbone).features == backbone.features == 48


@pytest.mark.parametrize("make", [openai_file, hf_folder])
def test_a_sentence_that_is_too_long_keeps_its_end_token_and_is_reported(tmp_path, make):
    tower = tower_of(make(tmp_path))
    tokens = tower.tokenise([LONG])
    assert tokens.shape == (1, tower.context) and int(tokens[0, -1]) == tower.config.end
    assert overlong(tower, ["a cat", LONG]) == [LONG]
    other = LONG.replace("a photo of", "one")
    assert not torch.allclose(tower.encode([LONG]), tower.encode([other]))


def test_a_sentence_that_just_fits_is_not_reported():
    tower = tower_of("random:tiny-clip")
    fits, too_long = " ".join(["cat"] * 75), " ".join(["cat"] * 76)
    assert tower.tokenise.lengths([fits, too_long]) == [77, 78]
    assert overlong(tower, [fits, too_long]) == [too_long]


def test_a_text_does_not_see_the_others(tmp_path):
    tower = tower_of(openai_file(tmp_path))
    whole = tower.encode(TEXTS + TEXTS, batch_size=3)
    alone = torch.cat([tower.encode([text]) for text in TEXTS])
    torch.testing.assert_close(whole, torch.cat([alone, alone]), atol=1e-5, rtol=0)


def test_random_towers_depend_on_their_seed_alone():
    first = tower_of("random:tiny-clip")
    torch.randn(3)
    assert tower_of("random:tiny-clip").digest() == first.digest() == tower_of("random:tiny-clip@0").digest()
    assert tower_of("random:tiny-clip@1").digest() != first.digest()


@pytest.mark.parametrize("name", ["random:tiny", "random:timm/resnet18"])
def test_a_backbone_without_language_says_so(name):
    with pytest.raises(NotApplicable, match="no text tower"):
        tower_of(name)


def test_a_checkpoint_of_the_image_tower_alone_says_so(tmp_path):
    state = {k: v for k, v in open_clip_clip().state_dict().items() if k.startswith("visual.")}
    torch.save(state, tmp_path / "visual.pt")
    with pytest.raises(NotApplicable, match="no text tower"):
        tower_of(f"file:{tmp_path / 'visual.pt'}?activation=quick_gelu")


def test_two_activations_in_one_model_are_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"quick_gelu.*text tower gelu"):
        tower_of(hf_folder(tmp_path, hidden_act="gelu"))


def test_an_activation_that_the_person_got_wrong_is_refused(tmp_path):
    name = open_clip_folder(tmp_path)
    with pytest.raises(WeightsError, match="image tower computes gelu and the text tower quick_gelu"):
        tower_of(f"{name}?activation=gelu")


def test_towers_of_two_models_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="not of one model"):
        load_text_tower(openai_file(tmp_path), load_backbone(hf_folder(tmp_path)))


@pytest.mark.parametrize(
    ("setting", "value"),
    {
        **{"pool_type": "none", "embed_cls": True, "hf_model_name": "roberta-base", "tokenizer_mode": "clips"},
        **{"act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"bias": False}, "scale_fc": True},
    }.items(),
)
def test_a_text_tower_of_another_kind_is_refused_by_name(tmp_path, setting, value):
    with pytest.raises(WeightsError, match=value if setting == "hf_model_name" else setting):
        tower_of(open_clip_folder(tmp_path, **{setting: value}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {**t, "text.cls_emb": torch.zeros(64)}, "cls_emb"),
        (lambda t: {n: x for n, x in t.items() if "resblocks.1.ln_2.bias" not in n}, "ln_2.bias is missing"),
        (lambda t: {n: x[:-1] if "c_fc.bias" in n else x for n, x in t.items()}, "tensors disagree"),
        (lambda t: {n: x / 0 if "c_fc.bias" in n else x for n, x in t.items()}, "not numbers"),
        (lambda t: {n.replace("text.", "visual.trunk."): x for n, x in t.items()} | t, "causal"),
    ],
)
def test_damaged_and_foreign_tensors_of_a_text_tower_are_refused(tmp_path, change, message):
    backbone = load_backbone(openai_file(tmp_path))
    state = {n: t for n, t in open_clip_clip().state_dict().items() if not n.startswith("visual.") and t.ndim}
    torch.save(change({f"text.{name}": tensor for name, tensor in state.items()}), tmp_path / "text.pt")
    with pytest.raises(WeightsError, match=message):
        load_text_tower(f"file:{tmp_path / 'text.pt'}", backbone)


def test_a_hugging_face_file_without_its_folder_is_refused(tmp_path):
    hf_folder(tmp_path)
    (tmp_path / "alone").mkdir()
    (tmp_path / "model.safetensors").rename(tmp_path / "alone" / "weights.safetensors")
    with pytest.raises(WeightsError, match=r"config\.json and the tokeniser"):
        tower_of(f"file:{tmp_path / 'alone' / 'weights.safetensors'}?activation=quick_gelu")


@pytest.mark.parametrize("text", ["encode_text", "text_encoder"])
def test_a_declip_file_has_one_token_more_and_a_projection_with_a_bias(tmp_path, text):
    from open_clip.model import QuickGELU
    from open_clip.transformer import TextTransformer

    shape = {"context_length": 77, "vocab_size": 49409, "width": 64, "heads": 1, "layers": 2, "output_dim": 48}
    network = TextTransformer(**shape, proj_bias=True, act_layer=QuickGELU).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    state = {f"module.visual.{name}": t for name, t in open_clip_clip().visual.state_dict().items()}
    state |= {f"module.{text}.{name}": t for name, t in network.state_dict().items()}
    torch.save({"model": state | {"module.logit_scale": torch.ones(1)}}, tmp_path / "declip.pth.tar")
    tower = tower_of(f"file:{tmp_path / 'declip.pth.tar'}?heads=4")
    tokens = tower.tokenise(TEXTS)
    assert set(tokens[:, 0].tolist()) == {49407} and tokens.max() == 49408
    torch.testing.assert_close(tower.encode(TEXTS), network(tokens), atol=1e-5, rtol=0)

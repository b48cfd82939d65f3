"""Adapters of our own, and VeRA: what they compute, by hand; where they start; what trains; what is computed once; what they refuse."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from body_families import DECODERS, FAMILIES, HIDDEN, LAYERS, PATCH, TEXT, TWINS, VARIANTS, WIDTH, write_checkpoint
from torch import nn
from torch.nn import functional as F

from orca_core.adapters.bottleneck import sublayer_ends
from orca_core.adapters.inserted import check_adapter
from orca_core.adapters.names import spell_adapter
from orca_core.adapters.own import tapped_layers
from orca_core.adapters.side import _with_length
from orca_core.bodies import find_body
from orca_core.bodies.base import Body
from orca_core.bodies.loading import LoadedBody, random_body
from orca_core.config.knobs import TrialConfig
from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError
from orca_core.finetuning import fixed_features
from orca_core.finetuning.loop import Finetuning
from orca_core.identity import canonical_knobs, trial_id
from orca_core.model.cross_modal import CrossModalModel
from orca_core.settings import Settings
from orca_core.tasks import find_task

SPELLED = {
    "bottleneck": {"name": "bottleneck", "r": 3},
    "side": {"name": "side", "taps": 2, "width": 8},
    "vpt": {"name": "vpt", "tokens": 3},
    "vpt-shallow": {"name": "vpt", "tokens": 3, "deep": False},
    "prefix": {"name": "prefix", "tokens": 3},
    "vera": {"name": "vera", "r": 4},
}
BODIES = tuple(family for family in FAMILIES if family not in TWINS)
TAKE_TOKENS = tuple(family for family in BODIES if family not in TEXT and family not in ("beit", "swin", "timm-swin"))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> dict[str, tuple[str, LoadedBody]]:
    """Family -> (the name of a tiny body, the body with random weights)."""
    made = {}
    for family in FAMILIES:
        name = write_checkpoint(family, tmp_path_factory.mktemp(family))[1]
        made[family] = name, random_body(find_body(name), seed=0)
    return made


def config_for(body: str, adapter: Any, **knobs: Any) -> TrialConfig:
    return resolve_config({"task": "digits", "body": body, "body.weights": "random", "adapter": adapter, **knobs})


def model_for(config: TrialConfig, loaded: LoadedBody) -> CrossModalModel:
    return CrossModalModel(Settings.of(config, "finetune"), loaded, (1, 8, 8), (3,))


def mini(quick, adapter: Any, **knobs: Any) -> TrialConfig:
    return quick("digits", {"body.name": "mini-roberta", "body.weights": "random", "adapter": adapter, "train_samples": 40, **knobs})


def tuning_for(config: TrialConfig) -> Finetuning:
    data = find_task(config.task).load()
    train = replace(data.train, x=data.train.x[:40], y=data.train.y[:40])
    data = replace(data, train=train, valid=replace(data.valid, x=data.valid.x[:20], y=data.valid.y[:20]))
    model = CrossModalModel(Settings.of(config, "finetune"), random_body(config.body_spec, seed=config.seed), (1, 8, 8), (10,))
    tuning = Finetuning(Settings.of(config, "finetune"), model, data, torch.device("cpu"))
    tuning.start_phase(tuning.settings)
    return tuning


# Spellings


@pytest.mark.parametrize(
    ("given", "spelled"),
    [
        ({"name": "bottleneck", "r": 64, "place": "both", "norms": False}, "bottleneck"),
        ({"name": "bottleneck", "place": "ffn", "r": 64}, '{"name":"bottleneck","place":"ffn"}'),
        ({"name": "vpt", "deep": True, "tokens": 10}, "vpt"),
        ({"name": "side", "width": None}, "side"),
        ({"name": "prefix", "tokens": 4}, '{"name":"prefix","tokens":4}'),
    ],
)
def test_options_at_their_defaults_are_left_out_of_the_spelling(given, spelled):
    assert spell_adapter(given) == spelled


def test_a_ladder_that_reads_the_same_layers_is_the_same_trial(quick):
    ids = [trial_id(mini(quick, adapter)) for adapter in ("side", {"name": "side", "taps": 2}, {"name": "side", "taps": [0, 1]})]
    assert len(set(ids)) == 1
    assert trial_id(mini(quick, {"name": "side", "taps": 1})) == trial_id(mini(quick, {"name": "side", "taps": [1]})) != ids[0]
    assert canonical_knobs(mini(quick, {"name": "side", "taps": 1}))["adapter"] == '{"name":"side","taps":[1]}'


@pytest.mark.parametrize(
    ("taps", "layers", "read"), [(3, 12, [3, 7, 11]), (1, 12, [11]), (5, 7, [0, 1, 3, 4, 6]), (20, 3, [0, 1, 2]), ([0, 4], 6, [0, 4])]
)
def test_taps_are_spread_over_the_layers_and_end_at_the_top(taps, layers, read):
    assert tapped_layers(taps, layers) == read


# Faults


@pytest.mark.parametrize(
    ("body", "adapter", "text"),
    [
        ("mini-roberta", {"name": "bottleneck", "r": 0}, "adapter.r: must be a whole number of at least 1, but got 0."),
        ("mini-roberta", {"name": "bottleneck", "r": True}, "adapter.r: must be a whole number of at least 1, but got True."),
        ("mini-roberta", {"name": "bottleneck", "place": "mlp"}, "adapter.place: must be one of attention, ffn, both, but got 'mlp'."),
        ("mini-roberta", {"name": "bottleneck", "norms": 1}, "adapter.norms: must be true or false, but got 1."),
        ("mini-roberta", {"name": "prefix", "token": 3}, "adapter.token: must be an option of prefix, but got 3. Did you mean 'tokens'?"),
        ("mini-roberta", {"name": "side", "taps": [1, 1]}, "adapter.taps: must be a number of layers, or a rising list of layers"),
        ("mini-roberta", {"name": "side", "taps": [0, 2]}, "adapter.taps: must name layers 0 to 1 of mini-roberta, but got 2."),
        ("mini-roberta", {"name": "side", "width": 0}, "adapter.width: must be a whole number of at least 1, or null"),
        ("mini-roberta", "vpt", "adapter: must not be vpt for mini-roberta, which reads text, but got 'vpt'. prefix gives"),
        ("mini-swin", "vpt", "adapter: must not be vpt for mini-swin, whose blocks relate places of a grid, where a learned token has"),
        ("mini-swin", "prefix", "adapter: must not be prefix for mini-swin, which reads images, but got 'prefix'. vpt gives"),
        ("mini-roberta", "bottlenek", "adapter: must be the name of an adapter (Did you mean 'bottleneck'?), but got 'bottlenek'."),
    ],
)
def test_an_option_or_a_body_that_cannot_be_is_a_fault_of_the_config(quick, body, adapter, text):
    with pytest.raises(ConfigError) as caught:
        quick("digits", {"body": body, "adapter": adapter})
    assert str(caught.value).startswith(text)


def test_veras_matrices_are_no_file_of_weights(quick):
    config = quick("digits", {"body": "mini-roberta", "adapter": {"name": "vera", "save_projection": True}})
    with pytest.raises(ConfigError, match=r"adapter\.save_projection: must not be given for vera, whose shared matrices are drawn again"):
        check_adapter(config.adapter, config.body_spec)


def test_all_faults_of_an_adapter_come_at_once(quick):
    with pytest.raises(ConfigError) as caught:
        quick("digits", {"body": "mini-swin", "adapter": {"name": "vpt", "tokens": 0, "deep": "yes"}, "finetune.lr": -1})
    assert {fault.path for fault in caught.value.faults} == {"adapter", "adapter.tokens", "adapter.deep", "finetune.lr"}


@pytest.mark.parametrize("variant", ["beit-absolute", "beit-shared-bias"])
def test_a_beit_takes_no_tokens_whatever_its_biases(variant, tmp_path):
    _, name = write_checkpoint(variant, tmp_path)
    assert VARIANTS[variant][0] == "beit"
    with pytest.raises(ConfigError, match="must not be vpt"):
        config_for(name, "vpt")


def test_a_bodiless_arm_does_not_read_the_adapter(quick):
    plain = quick("digits", {"body": "none"})
    assert all(trial_id(quick("digits", {"body": "none", "adapter": adapter})) == trial_id(plain) for adapter in SPELLED.values())


class _Unmarked(nn.Module):
    """A body of blocks that end in no linear layer."""

    geometry = None
    qkv: tuple[nn.Module, ...] = ()
    attention: tuple[nn.Module, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(2, 2))])


def test_a_body_whose_sublayers_end_in_another_way_is_refused():
    with pytest.raises(ConfigError, match="must not be bottleneck but for a body whose blocks end attention and feed-forward network"):
        sublayer_ends(_Unmarked())


# Where they go, how many they are


ENDS = {  # of the last block, by hand
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra"), ("attention.output.dense", "output.dense")),
    "distilbert": ("attention.out_lin", "ffn.lin2"),
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    "gpt_neox": ("attention.dense", "mlp.dense_4h_to_h"),
    **dict.fromkeys(("llama", "qwen2", "qwen3"), ("self_attn.o_proj", "mlp.down_proj")),
    "modernbert": ("attn.Wo", "mlp.Wo"),
    "t5": ("layer.0.SelfAttention.o", "layer.1.DenseReluDense.wo"),
    **dict.fromkeys(("vit", "deit", "beit", "dinov2", "dinov2_with_registers", "swin"), ("attention.o_proj", "mlp.fc2")),
    **dict.fromkeys(("clip", "clip_vision_model", "siglip", "siglip_vision_model"), ("self_attn.out_proj", "mlp.fc2")),
    **dict.fromkeys(("timm-vit", "timm-swin"), ("attn.proj", "mlp.fc2")),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_sublayers_end_where_each_family_has_its_output_projections(family, drawn):
    body = drawn[family][1].body
    names = {part: name for name, part in body.blocks[-1].named_modules()}
    ends = sublayer_ends(body)
    assert len(ends) == len(body.blocks)
    assert tuple(names[end] for end in ends[-1]) == ENDS[family]


def block_widths(family: str) -> list[int]:
    return [WIDTH, 2 * WIDTH, 2 * WIDTH] if family.endswith("swin") else [WIDTH] * LAYERS


def by_hand(name: str, family: str) -> int:
    """Parameters of an adapter of `SPELLED` in a tiny body."""
    widths = block_widths(family)
    if name == "bottleneck":
        return sum(2 * (2 * d * 3 + d + 3) for d in widths)
    if name == "side":
        first, *_, last = WIDTH, *widths
        read = tapped_layers(2, len(widths))
        return (8 * first + 8) + sum(8 * widths[i] + 8 + 1 + 12 * 64 + 13 * 8 for i in read) + 16 + 9 * last
    if name == "prefix":  # llama and qwen have one head of keys and values, half as wide as the tokens
        return len(widths) * 2 * 3 * (WIDTH // 2 if family in ("llama", "qwen2", "qwen3") else WIDTH)
    return 3 * WIDTH * (1 if name == "vpt-shallow" else len(widths))


CASES = [
    *((family, "bottleneck") for family in BODIES),
    *((family, "side") for family in BODIES),
    *((family, "prefix") for family in TEXT if family in BODIES),
    *((family, name) for family in TAKE_TOKENS for name in ("vpt", "vpt-shallow")),
]


@pytest.mark.parametrize(("family", "name"), CASES)
def test_what_an_adapter_trains_and_where_it_starts(family, name, drawn):
    body, loaded = drawn[family]
    config = config_for(body, SPELLED[name])
    model = model_for(config, loaded)
    model.train_only(("body",))
    assert model.num_trained() == by_hand(name, family)
    model.train_only(config.phases[0].train)
    model.train_mode()
    tokens = model.embedder(torch.randn(2, 1, 8, 8))
    own = loaded.body(tokens)
    assert torch.equal(model.eval().body(tokens), own) == (name in ("bottleneck", "side"))
    assert own.shape == model.body(tokens).shape
    model(torch.randn(2, 1, 8, 8)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.adapter.parameters)
    state, kept = model.body.state_dict(), loaded.body.state_dict()
    assert all(torch.equal(state[key], value) for key, value in kept.items())


# Bottleneck


def test_a_bottleneck_by_hand(drawn):
    body, loaded = drawn["bert"]
    model = model_for(config_for(body, {"name": "bottleneck", "r": 3, "place": "ffn"}), loaded).eval()
    block = model.body.blocks[0]
    assert not hasattr(block.attention.output.dense, "bottleneck")
    layer, h = block.output.dense, torch.randn(5, HIDDEN)
    with torch.no_grad():
        layer.bottleneck.up.weight.normal_()
        layer.bottleneck.up.bias.normal_()
        plain = h @ layer.weight.T + layer.bias
        down, up = layer.bottleneck.down, layer.bottleneck.up
        x = plain @ down.weight.T + down.bias
        expected = plain + (x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))) @ up.weight.T + up.bias
        torch.testing.assert_close(layer(h), expected)


def test_with_norms_the_layernorms_of_the_blocks_train_too(drawn):
    body, loaded = drawn["vit"]
    plain, more = (
        model_for(config_for(body, {"name": "bottleneck", "place": "attention", "r": 2, "norms": norms}), loaded) for norms in (False, True)
    )
    counts = [sum(parameter.numel() for parameter in model.adapter.parameters) for model in (plain, more)]
    assert counts == [LAYERS * (2 * WIDTH * 2 + WIDTH + 2), LAYERS * (2 * WIDTH * 2 + WIDTH + 2) + LAYERS * 2 * 2 * WIDTH]


# Visual prompts


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("family", ["deit", "clip", "dinov2_with_registers", "timm-vit"])
def test_prompts_stand_between_the_bodys_own_tokens_and_the_patches(family, deep, drawn):
    body, loaded = drawn[family]
    model = model_for(config_for(body, {"name": "vpt", "tokens": 3, "deep": deep}), loaded).eval()
    prompts = [parameter.detach() for parameter in model.adapter.parameters]
    assert len(prompts) == (LAYERS if deep else 1)
    assert all(prompt.abs().max() <= math.sqrt(6 / (3 * PATCH**2 + WIDTH)) for prompt in prompts)
    own, patches = loaded.body, torch.randn(2, 16, WIDTH)
    with torch.no_grad():
        h = torch.cat([own.prefix.expand(2, -1, -1), patches], dim=1)
        h = {"clip": getattr(own, "before", None), "timm-vit": getattr(own, "norm_pre", None)}.get(family, nn.Identity())(h)
        count = len(own.prefix)
        front, h = h[:, :count], h[:, count:]
        middle = prompts[0].expand(2, -1, -1)
        for number, block in enumerate(own.blocks):
            middle = prompts[number].expand(2, -1, -1) if deep else middle
            passed = block(torch.cat([front, middle, h], dim=1), **({"attention_mask": None} if family == "clip" else {}))
            front, middle, h = passed[:, :count], passed[:, count : count + 3], passed[:, count + 3 :]
        last = next(getattr(own, name) for name in ("after", "norm", "layernorm") if hasattr(own, name))
        torch.testing.assert_close(model.body(patches), last(h))


# Prefixes


def attention_inputs(body: Body, tokens: torch.Tensor, number: int) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    handle = body.attention[number].register_forward_pre_hook(
        lambda module, args, kwargs: found.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    body(tokens)
    handle.remove()
    return found


@pytest.mark.parametrize(("family", "causal"), [("distilbert", False), ("gpt2", True)])
def test_attention_with_a_prefix_by_hand(family, causal, drawn):
    body, loaded = drawn[family]
    model = model_for(config_for(body, SPELLED["prefix"]), loaded).eval()
    attention, tokens, heads = model.body.attention[0], torch.randn(1, 5, WIDTH), 2
    inside = next(part for part in attention.modules() if hasattr(part, "prefix"))
    with torch.no_grad():
        inside.prefix.keys.normal_()
        inside.prefix.values.normal_()
        seen: list[torch.Tensor] = []
        (attention.out_lin if family == "distilbert" else attention.c_proj).register_forward_pre_hook(
            lambda layer, inputs: seen.append(inputs[0])
        )
        x = attention_inputs(model.body, tokens, 0)[0][0]
        if family == "distilbert":
            query, key, value = (layer(x) for layer in (attention.q_lin, attention.k_lin, attention.v_lin))
        else:
            query, key, value = (x @ attention.c_attn.weight + attention.c_attn.bias).split(WIDTH, dim=-1)
        width = WIDTH // heads
        expected = []
        for head in range(heads):
            q, k, v = (part[:, head * width : (head + 1) * width] for part in (query, key, value))
            k, v = torch.cat([inside.prefix.keys[head], k]), torch.cat([inside.prefix.values[head], v])
            scores = q @ k.T / math.sqrt(width)
            if causal:  # the three places of the prefix are seen by all
                scores = scores.masked_fill(~torch.cat([torch.ones(5, 3), torch.ones(5, 5).tril()], dim=1).bool(), -math.inf)
            expected.append(scores.softmax(-1) @ v)
        torch.testing.assert_close(seen[0][0], torch.cat(expected, dim=-1))


@pytest.mark.parametrize("family", DECODERS)
def test_a_prefix_shows_a_decoder_no_later_token(family, drawn):
    body, loaded = drawn[family]
    model = model_for(config_for(body, SPELLED["prefix"]), loaded).eval()
    tokens = torch.randn(1, 5, WIDTH, requires_grad=True)
    model.body(tokens)[0, 1, 0].backward()
    assert (tokens.grad[0].abs().sum(1) > 0).tolist() == [True, True, False, False, False]


def test_every_token_sees_the_prefix_beside_position_biases_and_in_local_attention(drawn):
    for family in ("t5", "modernbert"):
        body, loaded = drawn[family]
        model = model_for(config_for(body, SPELLED["prefix"]), loaded).eval()
        tokens = torch.randn(1, 12, WIDTH)
        values = [part.prefix.values for part in model.body.modules() if hasattr(part, "prefix")]
        model.body(tokens)[0, -1, 0].backward()
        assert all((value.grad.abs().sum((0, 2)) > 0).all() for value in values)


def test_one_models_prefix_leaves_other_models_of_the_body_alone(drawn):
    body, loaded = drawn["bert"]
    tokens = torch.randn(1, 5, WIDTH)
    with torch.no_grad():
        before = loaded.body(tokens)
        model_for(config_for(body, "prefix"), loaded).eval().body(tokens)
        assert torch.equal(loaded.body(tokens), before)


# Ladder


def ladder_by_hand(model: CrossModalModel, tokens: torch.Tensor, own: Body) -> torch.Tensor:
    side, heads = model.body.side, 1
    noted: list[torch.Tensor] = []

    def note(block: nn.Module, inputs: Any, out: Any) -> None:
        noted.append(out[0] if isinstance(out, tuple) else out)

    handles = [block.register_forward_hook(note) for block in own.blocks]
    output = own(tokens)
    for handle in handles:
        handle.remove()
    s = side.first(tokens)
    for tap, rung, gate, block in zip(noted, side.rungs, side.gates, side.blocks, strict=True):
        mu = 1 / (1 + torch.exp(-gate / 0.1))
        s = mu * rung(tap) + (1 - mu) * s
        x = F.layer_norm(s, (8,), block.attention_norm.weight, block.attention_norm.bias)
        query, key, value = block.qkv(x).split(8, dim=-1)
        s = s + block.out((query @ key.transpose(1, 2) / math.sqrt(8 / heads)).softmax(-1) @ value)
        x = F.layer_norm(s, (8,), block.norm.weight, block.norm.bias)
        s = s + block.down(F.gelu(block.up(x)))
    return output + side.up(F.layer_norm(s, (8,), side.norm.weight, side.norm.bias))


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_a_ladder_by_hand(family, drawn):
    body, loaded = drawn[family]
    model = model_for(config_for(body, SPELLED["side"]), loaded).eval()
    with torch.no_grad():
        for parameter in model.adapter.parameters:
            parameter.normal_(std=0.3)
        tokens = torch.randn(2, 6, WIDTH)
        torch.testing.assert_close(model.body(tokens), ladder_by_hand(model, tokens, loaded.body))


@pytest.mark.parametrize(("flip", "double"), [(False, False), (True, False), (False, True), (True, True)])
def test_a_ladder_beside_a_decoder_sees_what_the_decoder_sees(flip, double, drawn):
    body, loaded = drawn["llama"]
    model = model_for(config_for(body, SPELLED["side"], **{"body.flip": flip, "body.double": double}), loaded).eval()
    tokens = torch.randn(1, 5, WIDTH)
    with torch.no_grad():
        for parameter in model.adapter.parameters:
            parameter.normal_(std=0.3)
        before = model.body(tokens)
        later = tokens.clone()
        later[:, 3] += 1
        changed = [not torch.equal(one, other) for one, other in zip(model.body(later)[0], before[0], strict=True)]
        assert changed == ([True] * 5 if flip or double else [False] * 3 + [True] * 2)


def test_no_gradient_passes_through_the_body_and_the_embedder_learns_by_the_first_rung(drawn):
    body, loaded = drawn["bert"]
    model = model_for(config_for(body, SPELLED["side"]), loaded)
    model.train_only(("embedder", "body", "predictor"))
    with torch.no_grad():
        model.body.side.up.weight.normal_()
    tokens = model.embedder(torch.randn(2, 1, 8, 8)).detach().requires_grad_(True)
    read = model.adapter.read(tokens)
    assert not any(part.requires_grad for part in read[1:])
    model.adapter.combine(read).square().sum().backward()
    found = tokens.grad.clone()
    with torch.no_grad():
        model.body.side.first.weight.zero_()
    tokens.grad.zero_()
    model.adapter.combine(model.adapter.read(tokens)).square().sum().backward()
    assert found.abs().sum() > 0
    assert tokens.grad.abs().sum() == 0


def test_beside_swin_a_ladder_takes_the_mean_of_the_patches_that_are_merged():
    s = torch.arange(16.0)[None, :, None]  # a grid of 4 x 4, row by row
    assert _with_length(s, 4).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert _with_length(s, 1).flatten().tolist() == [7.5]
    assert _with_length(s, 16) is s


def test_what_a_ladder_reads_is_computed_once_and_gives_what_reading_anew_gives(quick, monkeypatch):
    config = mini(quick, {"name": "side", "width": 8}, freezing="frozen-embedder", **{"finetune.dropout": 0.3})
    passes = []

    def rows(limit: int) -> list[Any]:
        monkeypatch.setattr(fixed_features, "LADDER_BYTES", limit)
        tuning = tuning_for(config)
        tuning.model.body.blocks[0].register_forward_hook(lambda *_: passes.append(limit))
        found = [tuning.run_epoch(epoch) for epoch in (1, 2, 3)]
        assert not tuning.model.body.blocks[0].training
        return found

    once, anew = rows(2**31), rows(0)
    assert passes.count(2**31) == 1 + (1 + 1 + 2)  # to measure one sample, then the splits in pieces of `eval_batch_size`
    assert passes.count(0) > 3 * 3
    for one, other in zip(once, anew, strict=True):
        assert (one.train_loss, one.valid_loss) == pytest.approx((other.train_loss, other.valid_loss), rel=1e-5)
    assert once[-1].train_loss < once[0].train_loss


# VeRA


def test_vera_has_one_pair_of_matrices_for_all_layers_drawn_from_the_seed(quick):
    def model_of(seed: int, **options: Any) -> CrossModalModel:
        config = mini(quick, {"name": "vera", "r": 4, **options}, seed=seed)
        return model_for(config, random_body(config.body_spec, seed=0))

    model, again, other = model_of(0), model_of(0), model_of(1)
    pairs = {(id(part.vera_A), id(part.vera_B)) for part in model.body.modules() if hasattr(part, "vera_A")}
    assert len(pairs) == 1
    matrices, same, different = [
        next(part.vera_A["default"] for part in one.body.modules() if hasattr(part, "vera_A")) for one in (model, again, other)
    ]
    assert torch.equal(matrices, same)
    assert not torch.equal(matrices, different)
    # a layer from i to o trains r + o numbers; the pair is as large as the largest layer needs, and counts once
    trained = 2 * (4 * (4 + 64) + (4 + 128) + (4 + 64))
    assert sum(parameter.numel() for parameter in model.adapter.parameters) == trained
    assert model.num_parameters() == sum(parameter.numel() for parameter in model.parameters()) + 4 * 128 + 128 * 4
    assert not any("vera_A" in name or "vera_B" in name for name in model.state_dict())
    given = model_of(0, projection_prng_key=5), model_of(1, projection_prng_key=5)
    assert len({float(next(p.vera_A["default"] for p in one.body.modules() if hasattr(p, "vera_A")).sum()) for one in given}) == 1


# Determinism


def test_a_run_that_is_cut_short_goes_on_to_the_same_bits(quick, rows_of_cut_runs):
    knobs = {"finetune.epochs": 2, "finetune.lr": 0.01, "finetune.dropout": 0.1}
    config = mini(quick, SPELLED["side"], freezing="frozen-embedder:1", **knobs)
    whole, again = rows_of_cut_runs(config, range(1, 2))
    assert again == [whole] * len(again)


@pytest.mark.parametrize(
    ("family", "name"), [("vit", "vpt"), ("siglip", "vpt-shallow"), ("llama", "prefix"), ("clip", "bottleneck"), ("swin", "side")]
)
def test_weights_that_trained_make_the_model_again(family, name, drawn):
    body, loaded = drawn[family]
    config = config_for(body, SPELLED[name])
    trained, again = model_for(config, loaded).eval(), model_for(config, loaded).eval()
    for model in (trained, again):
        model.train_only(config.phases[0].train)
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)
        again.load_state_dict({key: value for key, value in trained.named_parameters() if value.requires_grad}, strict=False)
        x = torch.randn(2, 1, 8, 8)
        assert torch.equal(again(x), trained(x))


def test_preflight_takes_them_on_bodies_that_they_fit(drawn):
    for family, name in (("bert", "prefix"), ("vit", "vpt"), ("swin", "bottleneck"), ("gpt2", "side")):
        config = config_for(drawn[family][0], SPELLED[name])
        check_adapter(config.adapter, config.body_spec)

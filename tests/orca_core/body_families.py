"""A tiny checkpoint of every family of bodies, written with the family's own library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from timm.models._hub import save_for_hf

WIDTH, HIDDEN, LAYERS, HEADS, VOCABULARY, POSITIONS = 16, 32, 2, 2, 50, 24
IMAGE, PATCH = 8, 2

_BERT = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": HIDDEN}
_DINO = {name: value for name, value in _BERT.items() if name != "intermediate_size"}
_TEXT = {"vocab_size": VOCABULARY, "max_position_embeddings": POSITIONS}
_IMAGES = {"image_size": IMAGE, "patch_size": PATCH}
_SWIN = {"embed_dim": WIDTH, "depths": [1, 2], "num_heads": [1, 2], "window_size": 2, "mlp_ratio": 2.0}
_HF_CONFIGS: dict[str, Any] = {
    "bert": lambda: transformers.BertConfig(**_TEXT, **_BERT),
    "roberta": lambda: transformers.RobertaConfig(pad_token_id=1, **_TEXT, **_BERT),
    "xlm-roberta": lambda: transformers.XLMRobertaConfig(pad_token_id=1, **_TEXT, **_BERT),
    "camembert": lambda: transformers.CamembertConfig(pad_token_id=1, **_TEXT, **_BERT),
    "electra": lambda: transformers.ElectraConfig(embedding_size=WIDTH, **_TEXT, **_BERT),
    "distilbert": lambda: transformers.DistilBertConfig(**_TEXT, dim=WIDTH, n_layers=LAYERS, n_heads=HEADS, hidden_dim=HIDDEN),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=POSITIONS, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_inner=HIDDEN
    ),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**_TEXT, **_BERT),
    "llama": lambda: transformers.LlamaConfig(num_key_value_heads=1, **_TEXT, **_BERT),
    "qwen2": lambda: transformers.Qwen2Config(num_key_value_heads=1, **_TEXT, **_BERT),
    "qwen3": lambda: transformers.Qwen3Config(num_key_value_heads=1, head_dim=8, **_TEXT, **_BERT),
    "modernbert": lambda: transformers.ModernBertConfig(pad_token_id=0, local_attention=4, global_attn_every_n_layers=2, **_TEXT, **_BERT),
    "t5": lambda: transformers.T5Config(
        vocab_size=VOCABULARY, n_positions=POSITIONS, d_model=WIDTH, d_kv=8, d_ff=HIDDEN, num_layers=LAYERS, num_heads=HEADS
    ),
    "vit": lambda: transformers.ViTConfig(**_IMAGES, **_BERT),
    "deit": lambda: transformers.DeiTConfig(**_IMAGES, **_BERT),
    "beit": lambda: transformers.BeitConfig(use_relative_position_bias=True, use_mean_pooling=False, **_IMAGES, **_BERT),
    "dinov2": lambda: transformers.Dinov2Config(mlp_ratio=HIDDEN // WIDTH, **_IMAGES, **_DINO),
    "dinov2_with_registers": lambda: transformers.Dinov2WithRegistersConfig(
        num_register_tokens=3, mlp_ratio=HIDDEN // WIDTH, **_IMAGES, **_DINO
    ),
    "clip": lambda: transformers.CLIPConfig(text_config=_TEXT | _BERT, vision_config=_IMAGES | _BERT, projection_dim=WIDTH),
    "clip_vision_model": lambda: transformers.CLIPVisionConfig(**_IMAGES, **_BERT),
    "siglip": lambda: transformers.SiglipConfig(text_config=_TEXT | _BERT, vision_config=_IMAGES | _BERT),
    "siglip_vision_model": lambda: transformers.SiglipVisionConfig(**_IMAGES, **_BERT),
    "swin": lambda: transformers.SwinConfig(**_IMAGES, **_SWIN),
}
_TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "timm-vit": (
        "vit_tiny_patch16_224",
        {"img_size": IMAGE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": LAYERS, "num_heads": HEADS, "mlp_ratio": HIDDEN / WIDTH},
    ),
    "timm-swin": ("swin_tiny_patch4_window7_224", {"img_size": IMAGE, "patch_size": PATCH, **_SWIN}),
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {  # what other checkpoints of a family have: its name, changes of the configuration
    "roberta-pad-0": ("roberta", {"pad_token_id": 0}),
    "beit-mean-pooled": ("beit", {"use_mean_pooling": True}),
    "beit-shared-bias": ("beit", {"use_relative_position_bias": False, "use_shared_relative_position_bias": True}),
    "beit-absolute": ("beit", {"use_relative_position_bias": False, "use_absolute_position_embeddings": True}),
    "gpt_neox-sequential": ("gpt_neox", {"use_parallel_residual": False}),
    "modernbert-biased": ("modernbert", {"norm_bias": True, "attention_bias": True}),
    "t5-gated": ("t5", {"feed_forward_proj": "gated-gelu"}),
    "dinov2-gated": ("dinov2", {"use_swiglu_ffn": True}),
    "siglip-headless": ("siglip_vision_model", {"vision_use_head": False}),
    "gpt2-unscaled": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "timm-vit-registers": ("timm-vit", {"reg_tokens": 2, "no_embed_class": True}),
    "timm-vit-pre-norm": ("timm-vit", {"pre_norm": True, "global_pool": "avg"}),
    "timm-vit-no-class": ("timm-vit", {"class_token": False, "global_pool": "avg"}),
    "timm-swin-padded": ("timm-swin", {"window_size": 3}),
}
FAMILIES = (*_HF_CONFIGS, *_TIMM)
TEXT = tuple(_HF_CONFIGS)[:13]
DECODERS = ("gpt2", "gpt_neox", "llama", "qwen2", "qwen3")
TOWERS = ("clip", "siglip")


def write_checkpoint(family: str, folder: Path) -> tuple[Any, str]:
    """Write a checkpoint, of a family or a variant, whose every parameter is drawn; gives its model, in eval mode, and the body's name."""
    torch.manual_seed(7)
    family, changes = VARIANTS.get(family, (family, {}))
    if family in _TIMM:
        architecture, arguments = _TIMM[family]
        arguments = arguments | changes
        model = timm.create_model(architecture, num_classes=3, **arguments).eval()
    else:
        model = transformers.AutoModel.from_config(_changed(_HF_CONFIGS[family](), changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    if family in _TIMM:
        save_for_hf(model, str(folder), model_args=arguments, safe_serialization=True)
        return model, f"timm:{folder}"
    model.save_pretrained(folder)
    return model, f"hf:{folder}"


def _changed(config: Any, changes: dict[str, Any]) -> Any:
    config.update(changes)
    return config

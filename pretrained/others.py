"""What arrays are, where they are not a Vision Transformer that this project's network computes."""

from __future__ import annotations

import re
from collections.abc import Collection

# Told by a name that no other kind has; the first that matches counts.
KINDS = (
    (r"(^|\.)detr\.|query_position_embeddings|(^|\.)query_embed\.", "a DETR detector"),
    (r"(^|\.)(rpn\.head|roi_heads?)\.", "a detector"),
    (r"\.lora_[AB]\.|\.lora_(up|down)\.", "LoRA adapters, without the network that they change"),
    (r"\.(absmax|quant_map|qweight|qzeros|SCB)$|quant_state", "a quantised network"),
    (
        r"patch_embed\.backbone\.|^(root|conv_root)/",
        "a hybrid of a ResNet and a Vision Transformer",
    ),
    (r"MixerBlock_|\.mlp_tokens\.|\.linear_tokens\.", "an MLP-Mixer"),
    (r"stages\.\d+\.blocks\.\d+\.attn\.(rel_pos_h|norm_[qk])", "an MViT"),
    (r"\.attn_(grid|block)\.|\.layers\.(MBconv|window_attention)\.", "a MaxViT"),
    (r"stages\.\d+\.blocks\.\d+\..*(rel_pos|relative_position)", "a CoAtNet or its kin"),
    (r"(^|\.)image_encoder\.(patch_embed|blocks|neck)|\.rel_pos_h$", "a SAM image encoder"),
    (r"(^|\.)swinv2\.|\.cpb_mlp\.|continuous_position_bias_mlp", "a Swin Transformer V2"),
    (
        r"(^|\.)swin\.|layers\.\d+\.blocks\.\d+\.(attn|attention)\.|layers\.\d+\.downsample\."
        r"|features\.\d+\.\d+\.attn\.relative_position",
        "a Swin Transformer",
    ),
    (
        r"(^|\.)(beit|data2vec_vision)\.|blocks\.\d+\.(attn\.q_bias|attn\.relative_position)"
        r"|layers?\.\d+\.lambda_1$|relative_position_bias_table|rel_pos_bias\.",
        "a BEiT or its kin (data2vec, EVA)",
    ),
    (r"blocks_token_only\.", "a CaiT"),
    (r"(^|\.)segformer\.|\.mlp\.dwconv\.|\.sequence_reduction\.", "a SegFormer or a PVT"),
    (r"(^|\.)head\.probe$|attn_pool\.(latent|probe)", "a SigLIP image tower"),
    (
        r"(^|\.)vision_model\.|visual\.(conv1|class_embedding|transformer)|visual\.layer1\."
        r"|vision_embeddings|(^|\.)class_embedding$",
        "CLIP",
    ),
    (r"(^|\.)text_model\.|(^|\.)token_embedding\.weight$", "the text tower of CLIP"),
    (r"word_embeddings\.weight$", "a language model (BERT or its kin)"),
    (
        r"(^|\.)(wte|embed_tokens|lm_head|shared)\.weight$|transformer\.h\.\d+\.",
        "a language model (GPT, Llama, T5 or their kin)",
    ),
    (r"(^|\.)(down_blocks|up_blocks|input_blocks)\.\d+\.", "a diffusion model's U-Net"),
    (r"transformer_blocks\.\d+\.|t_embedder\.|x_embedder\.", "a diffusion transformer"),
    (
        r"(^|\.)convnext(v2)?\.|\.dwconv\.|\.conv_dw\.|downsample_layers\.\d|stages\.\d+\.layers\."
        r"\d+\.pwconv|features\.\d+\.\d+\.layer_scale$",
        "a ConvNeXt",
    ),
    (r"(^|\.)denseblock\d+\.", "a DenseNet"),
    (r"layer\d\.\d+\.(conv|bn)\d\.|(^|\.)resnet\.|embedder\.embedder\.convolution", "a ResNet"),
    (r"block\d+/unit\d+/", "a ResNet (BiT)"),
    (
        r"(^|\.)features\.\d+\.(\d+\.)*(weight|bias|running_mean|conv|block|fc\d)",
        "a convolutional network",
    ),
    (r"(^|model\.)layer\.\d+\.attention\.q_proj\.|rope_embed", "a DINOv3"),
    (r"\.running_mean$", "a network with batch normalisation"),
    (r"to_patch_embedding\.|transformer\.layers\.\d+\.0\.", "a ViT of vit-pytorch (lucidrains)"),
    (r"patch_embed\.projection\.|layers\.\d+\.ffn\.layers\.", "a ViT in OpenMMLab's naming"),
)
# A convolution of depth, told by its neighbours: EfficientNet's and ConvNeXt's share a name.
MOBILE = re.compile(r"(^|\.)(conv_stem|conv_pw|conv_pwl)\.")
GATED = (
    "its MLP is a SwiGLU, as in DINOv2's giant, and this project's has a GELU; name a smaller one"
)
# A Vision Transformer, yet not the one that this project computes.
VARIANTS = (
    (
        r"^fc_norm\.",
        "it reads the mean of the patch tokens through fc_norm, and this project's network reads "
        "the class token; name weights that were made for that, such as the pre-trained ones that "
        "these were fine-tuned from",
    ),
    (
        r"dist(illation)?_token",
        "it has a second token, for distillation, as the distilled DeiTs have, and this project's "
        "network has not; name the weights of DeiT without distillation",
    ),
    (
        r"reg(ister)?_tokens?$",
        "it has register tokens, which this project's network has not; name the same weights "
        "without registers",
    ),
    (
        r"^norm_pre\.|pre_layernorm|pre_layrnorm",
        "it normalises before its first block, as CLIP's ViT does, and this project's network does "
        "not; name weights of an ordinary ViT",
    ),
    (r"\.mlp\.(w12|w3|w1|weights_in|gate_proj|fc1_g)\.", GATED),
    (
        r"\.(q_norm|k_norm)\.|(^|\.)rope|\.mlp\.norm\.|\.attn\.norm\.",
        "its blocks have parts that this project's have not; name weights of an ordinary ViT",
    ),
    (
        r"detection_tokens",
        "it is a YOLOS detector; name weights of an ordinary ViT",
    ),
    (r"^attn_pool\.", "it pools by attention, and this project's network reads the class token"),
)


def kind_of(names: Collection[str]) -> str | None:
    """What sort of network the names of its arrays tell, where it is a known other; else None."""
    if any(MOBILE.search(name) for name in names):
        return "an EfficientNet or MobileNet"
    for pattern, kind in KINDS:
        if any(re.search(pattern, name) for name in names):
            return kind
    return None


def variant_of(names: Collection[str]) -> str | None:
    """Why a ViT with arrays of these names, unknown to its table, can't be computed; or None."""
    for pattern, reason in VARIANTS:
        if any(re.search(pattern, name) for name in names):
            return reason
    return None

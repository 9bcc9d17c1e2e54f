"""The sizes of the demo's network, of which its config.json is written."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    """The text_config of the demo; names as in the checkpoint's config.json."""

    hidden_size: int = 192
    num_hidden_layers: int = 4
    full_attention_interval: int = 2
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    partial_rotary_factor: float = 0.25
    rope_theta: float = 1e7
    linear_num_key_heads: int = 2
    linear_num_value_heads: int = 4
    linear_key_head_dim: int = 32
    linear_value_head_dim: int = 32
    linear_conv_kernel_dim: int = 4
    num_experts: int = 8
    num_experts_per_tok: int = 2
    moe_intermediate_size: int = 128
    shared_expert_intermediate_size: int = 128
    vocab_size: int = 2048
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 131072
    router_aux_loss_coef: float = 0.001

    def is_attention(self, layer: int) -> bool:
        return (layer + 1) % self.full_attention_interval == 0

"""The training network computes what transformers' class computes (needs the `train` extra)."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]


def reference(config, state):
    """transformers' model with the same weights."""
    text = transformers.Qwen3_5MoeTextConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        linear_num_key_heads=config.linear_num_key_heads,
        linear_num_value_heads=config.linear_num_value_heads,
        linear_key_head_dim=config.linear_key_head_dim,
        linear_value_head_dim=config.linear_value_head_dim,
        num_experts=config.num_experts,
        num_experts_per_tok=config.num_experts_per_tok,
        moe_intermediate_size=config.moe_intermediate_size,
        shared_expert_intermediate_size=config.shared_expert_intermediate_size,
        layer_types=[
            "full_attention" if config.is_attention(i) else "linear_attention"
            for i in range(config.num_hidden_layers)
        ],
        rope_parameters={
            "rope_type": "default",
            "rope_theta": config.rope_theta,
            "partial_rotary_factor": config.partial_rotary_factor,
        },
        rms_norm_eps=config.rms_norm_eps,
        tie_word_embeddings=False,
    )
    model = transformers.Qwen3_5MoeForCausalLM(text).float().eval()
    model.load_state_dict(state)
    return model


def test_logits_agree_with_transformers():
    from model.demo.network import Config, Network

    torch.manual_seed(0)
    config = Config(vocab_size=256)
    ours = Network(config).eval()
    for parameter in ours.parameters():  # every weight matters, also those that start at 0 or 1
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    theirs = reference(config, ours.state_dict())
    ids = torch.randint(0, 256, (2, 150))
    with torch.no_grad():
        difference = (ours(ids) - theirs(ids).logits).abs().max()
    assert difference < 1e-4


def test_an_exported_checkpoint_reads_back(tmp_path):
    pytest.importorskip("mlx.core")
    from model.demo.chat_template import CHECKPOINT
    from model.demo.checkpoint import dequantized, write_checkpoint
    from model.demo.network import Config, Network
    from model.demo.tokenizer import load_tokenizer

    torch.manual_seed(0)
    state = Network(Config()).state_dict()
    write_checkpoint(tmp_path, state, Config(), load_tokenizer(CHECKPOINT))
    back = dequantized(tmp_path)
    assert set(back) == set(state)
    for name, tensor in state.items():
        assert back[name].shape == tensor.shape
        assert (back[name] - tensor).norm() <= 0.04 * tensor.norm() + 1e-6, name


def test_muon_orthogonalises():
    from model.demo.muon import orthogonalise

    torch.manual_seed(0)
    for shape in ((3, 64, 32), (2, 32, 96)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.min() > 0.5
        assert values.max() < 1.4

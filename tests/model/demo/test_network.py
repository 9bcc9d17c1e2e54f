"""The training network computes what transformers' class and the server's network compute (needs
the `train` extra).
"""

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
    from model.demo.config import Config
    from model.demo.network import Network

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


def test_an_exported_checkpoint_computes_the_training_networks_logits(tmp_path):
    from model.demo.chat_template import CHECKPOINT
    from model.demo.config import Config
    from model.demo.export import export
    from model.demo.network import Network
    from model.demo.tokenizer import load_tokenizer
    from model.loading import load_model

    torch.manual_seed(0)
    network = Network(Config()).eval()
    state = {name: tensor.bfloat16().float() for name, tensor in network.state_dict().items()}
    network.load_state_dict(state)
    export(tmp_path, state, load_tokenizer(CHECKPOINT), quantized=False)
    ids = torch.randint(0, 2048, (1, 150))
    with torch.no_grad():
        expected = network(ids)[0]
    logits = torch.tensor(load_model(tmp_path).logits(ids[0].tolist()).tolist())
    assert (logits - expected).abs().max() < 1e-3


def test_muon_orthogonalises():
    from model.demo.muon import orthogonalise

    torch.manual_seed(0)
    for shape in ((3, 64, 32), (2, 32, 96)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.min() > 0.5
        assert values.max() < 1.4

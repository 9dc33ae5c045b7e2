"""What a parameter is follows from what its layer does with it, and not from what anybody called it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossnav as ln
from lossnav import errors
from lossnav.objective.roles import describe_parameters

X = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(1))
WEIGHTS, SCALES, BIASES = "weight", "norm", "bias"


def roles_of(model, x=X, forward=None):
    forward = forward or (lambda model, batch: (model(batch[0]), batch[0]))
    loss = lambda outputs, inputs: torch.as_tensor(outputs).float().square().mean()  # noqa: E731
    return ln.Objective(model.eval(), loss, [(x, x)], forward=forward).roles


# ---------------------------------------------------------------------- the user's own layers


class LinearNorm(nn.Linear):
    """Tacotron's: a linear layer, whatever it is called."""


class Standardise(nn.Module):
    """A norm of no such name."""

    def __init__(self, size=6):
        super().__init__()
        self.gain, self.offset = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))

    def forward(self, x):
        return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-5) * self.gain + self.offset


class GemmaLike(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(6))

    def forward(self, x):
        normed = x.double() * torch.rsqrt(x.double().pow(2).mean(-1, keepdim=True) + 1e-6)
        return (normed * (1.0 + self.weight.double())).type_as(x)


class LayerScale(nn.Module):
    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(1e-5 * torch.ones(4, 1, 1))

    def forward(self, x):
        return x * self.gamma


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(0.1))

    def forward(self, x):
        return x + torch.tanh(self.alpha) * x


class Projection(nn.Module):
    """A matrix in a layer that is called a norm: x @ weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 3))

    def forward(self, x):
        return x @ self.weight


class LayerNorm2d(Projection):
    pass


class OneRow(nn.Module):
    """Weights with a single row or column: by shape they might be scales."""

    def __init__(self):
        super().__init__()
        self.row, self.column, self.vector = (nn.Parameter(torch.randn(*s)) for s in ((1, 6), (3, 1), (3,)))

    def forward(self, x):
        return F.linear(F.linear(x, self.row), self.column) @ self.vector


class AttentionPool(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.scale = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(6))

    def forward(self, x):
        return (x * self.query).sum(-1, keepdim=True) * x * self.scale


class WithToken(nn.Module):
    def __init__(self):
        super().__init__()
        self.cls_token, self.pos_embed = nn.Parameter(torch.randn(1, 1, 6)), nn.Parameter(torch.randn(1, 3, 6))
        self.mask_token = nn.Parameter(torch.randn(1, 1, 6))
        self.norm = nn.LayerNorm(6)

    def forward(self, x):
        x = torch.stack([x, x], 1)
        mask = (x.mean(-1, keepdim=True) > 0).float()
        x = x * (1 - mask) + self.mask_token.expand(len(x), 2, -1) * mask
        return self.norm(torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed)


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.up_bias = nn.Parameter(torch.randn(3, 6, 5)), nn.Parameter(torch.randn(3, 5))
        self.bias_table = nn.Parameter(torch.randn(7, 5))

    def forward(self, x):
        many = torch.bmm(x.expand(3, -1, -1), self.up) + self.up_bias[:, None, :]
        return many + self.bias_table[torch.tensor([3])]


class Fixup(nn.Module):
    def __init__(self):
        super().__init__()
        self.bias1, self.scale, self.linear = (
            nn.Parameter(torch.zeros(1)),
            nn.Parameter(torch.ones(1)),
            LinearNorm(6, 2),
        )

    def forward(self, x):
        return self.linear((x + self.bias1) * self.scale)


OWN = {
    LinearNorm: (lambda: LinearNorm(6, 3), X, {"weight": WEIGHTS, "bias": BIASES}),
    Standardise: (lambda: nn.Sequential(Standardise(), nn.Linear(6, 2)), X,
                  {"0.gain": SCALES, "0.offset": SCALES, "1.weight": WEIGHTS, "1.bias": BIASES}),
    GemmaLike: (lambda: nn.Sequential(GemmaLike(), nn.Linear(6, 2, bias=False)), X,
                {"0.weight": SCALES, "1.weight": WEIGHTS}),
    LayerScale: (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), LayerScale()), IMAGES,
                 {"0.weight": WEIGHTS, "0.bias": BIASES, "1.gamma": SCALES}),
    Gate: (lambda: nn.Sequential(Gate(), nn.Linear(6, 2, bias=False)), X, {"0.alpha": SCALES, "1.weight": WEIGHTS}),
    Projection: (Projection, X, {"weight": WEIGHTS}),
    LayerNorm2d: (LayerNorm2d, X, {"weight": WEIGHTS}),
    OneRow: (OneRow, X, dict.fromkeys(("row", "column", "vector"), WEIGHTS)),
    AttentionPool: (AttentionPool, X, {"query": WEIGHTS, "scale": SCALES}),
    WithToken: (WithToken, X, {"cls_token": WEIGHTS, "pos_embed": WEIGHTS, "mask_token": WEIGHTS,
                               "norm.weight": SCALES, "norm.bias": SCALES}),
    Experts: (Experts, X, {"up": WEIGHTS, "up_bias": BIASES, "bias_table": WEIGHTS}),
    Fixup: (Fixup, X, {"bias1": BIASES, "scale": SCALES, "linear.weight": WEIGHTS, "linear.bias": BIASES}),
}  # fmt: skip


@pytest.mark.parametrize("kind", OWN, ids=lambda kind: kind.__name__)
def test_layers_of_the_users_own(kind):
    torch.manual_seed(0)
    make, x, expected = OWN[kind]
    model = make()
    assert roles_of(model, x) == expected
    for module in model.modules():  # and by any other name
        if type(module).__module__ == __name__:
            module.__class__ = type("Norm" if "Norm" not in kind.__name__ else "Layer", (type(module),), {})
    assert roles_of(model, x) == expected


def test_the_default_moves_weights_and_holds_scales():
    torch.manual_seed(0)
    model = nn.Sequential(LinearNorm(6, 6), nn.PReLU(6), Standardise(), nn.Linear(6, 2)).eval()
    objective = ln.Objective(model, "cross_entropy", (X, torch.arange(12) % 2))
    (direction,) = ln.directions.random(objective)
    assert set(direction.recipe["norms"]) == {"0.weight", "3.weight"}
    assert set(direction.recipe["excluded"]) == set(objective.params) - {"0.weight", "3.weight"}


def test_a_model_of_nothing_but_scales_has_them_for_weights():
    class Curve(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return self.a * x + self.b

    objective = ln.Objective(Curve(), "mse", (X[:, :1], X[:, :1]))
    assert set(objective.roles.values()) == {WEIGHTS}
    assert ln.directions.random(objective)[0].recipe["norm"] > 0


def test_what_is_not_used_in_the_pass_is_told_by_its_shape():
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.spare = nn.Linear(6, 2), nn.LayerNorm(3)
            self.own = Standardise()

        def forward(self, x):
            return self.layer(x)

    roles = roles_of(Spare())
    assert roles["own.gain"] == roles["own.offset"] == roles["spare.weight"] == SCALES


def test_the_pass_leaves_everything_as_it_was():
    class Counting(Standardise):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls.add_(1)
            return super().forward(x) * self.calls

    model = nn.Sequential(Counting(), nn.Linear(6, 2)).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.random.get_rng_state()
    objective = ln.Objective(model, "cross_entropy", (X, torch.arange(12) % 2))
    assert objective.roles["0.gain"] == SCALES
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
    with torch.no_grad():
        truth = float(F.cross_entropy(model(X), torch.arange(12) % 2))
    assert objective.evaluate(objective.params)["loss"] == pytest.approx(truth, rel=1e-6)


# ---------------------------------------------------------------------- torch's layers


def weight_norm(layer):
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(layer)


W = nn.utils.parametrizations.weight_norm
TORCH = {
    "BatchNorm2d": (lambda: nn.BatchNorm2d(4), {"weight": SCALES, "bias": SCALES}),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), {"weight": SCALES, "bias": SCALES}),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(4, affine=True), {"weight": SCALES, "bias": SCALES}),
    "LayerNorm of three axes": (lambda: nn.LayerNorm((4, 8, 8)), {"weight": SCALES, "bias": SCALES}),
    "RMSNorm": (lambda: nn.RMSNorm(8), {"weight": SCALES}),
    "PReLU": (lambda: nn.PReLU(4), {"weight": SCALES}),
    "PReLU of one": (nn.PReLU, {"weight": SCALES}),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 3, 2), {"weight": WEIGHTS, "bias": BIASES}),
    "Conv2d of one": (lambda: nn.Conv2d(4, 1, 1), {"weight": WEIGHTS, "bias": BIASES}),
    "weight_norm": (lambda: W(nn.Conv2d(4, 3, 1)), {"bias": BIASES, "parametrizations.weight.original0": SCALES,
                                                    "parametrizations.weight.original1": WEIGHTS}),
    "weight_norm of the old kind": (lambda: weight_norm(nn.Conv2d(4, 3, 1)), {"bias": BIASES, "weight_g": SCALES,
                                                                             "weight_v": WEIGHTS}),
    "spectral_norm": (lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 3, 1)),
                      {"bias": BIASES, "parametrizations.weight.original": WEIGHTS}),
    "spectral_norm of the old kind": (lambda: nn.utils.spectral_norm(nn.Conv2d(4, 3, 1)),
                                      {"bias": BIASES, "weight_orig": WEIGHTS}),
}  # fmt: skip


@pytest.mark.parametrize("kind", TORCH)
def test_torchs_own_layers(kind):
    make, expected = TORCH[kind]
    assert roles_of(make(), IMAGES) == expected


def test_embeddings_bilinear_recurrent_and_attention():
    def said(model):
        return describe_parameters(model, [name for name, _ in model.named_parameters()])[0]

    assert said(nn.Embedding(3, 1)) == {"weight": WEIGHTS}
    assert said(nn.EmbeddingBag(3, 4)) == {"weight": WEIGHTS}
    assert said(nn.Bilinear(2, 3, 1)) == {"weight": WEIGHTS, "bias": BIASES}
    lstm = said(nn.LSTM(2, 1, bidirectional=True, proj_size=0))
    assert {lstm[name] for name in lstm if name.startswith("bias")} == {BIASES}
    assert {lstm[name] for name in lstm if name.startswith("weight")} == {WEIGHTS}
    attention = said(nn.MultiheadAttention(4, 2, add_bias_kv=True))
    assert attention["in_proj_weight"] == attention["out_proj.weight"] == WEIGHTS
    assert attention["in_proj_bias"] == attention["out_proj.bias"] == BIASES
    biased = nn.Linear(2, 3)
    nn.utils.parametrize.register_parametrization(biased, "bias", nn.Identity())
    assert said(biased) == {"weight": WEIGHTS, "parametrizations.bias.original": BIASES}


# ---------------------------------------------------------------------- those of Hugging Face


def of_transformers(path):
    module, _, name = path.rpartition(".")
    return getattr(pytest.importorskip(f"transformers.models.{module}"), name)


def test_norms_of_transformers():
    def then(norm, *others):
        return nn.Sequential(norm, nn.Linear(6, 2, bias=False))

    for path in ("t5.modeling_t5.T5LayerNorm", "llama.modeling_llama.LlamaRMSNorm"):
        assert roles_of(then(of_transformers(path)(6))) == {"0.weight": SCALES, "1.weight": WEIGHTS}
    gated = of_transformers("mamba2.modeling_mamba2.MambaRMSNormGated")(6, 6)
    roles = roles_of(nn.ModuleList([gated, nn.Linear(6, 2)]), X,
                     lambda model, batch: (model[1](model[0](batch[0], batch[0])), batch[0]))  # fmt: skip
    assert roles == {"0.weight": SCALES, "1.weight": WEIGHTS, "1.bias": BIASES}


def test_models_of_transformers():
    import transformers as hf

    torch.manual_seed(0)
    convnext = hf.ConvNextModel(hf.ConvNextConfig(hidden_sizes=[8, 8], depths=[1, 1], num_stages=2, patch_size=2))
    images = torch.randn(2, 3, 32, 32)
    logits = lambda model, batch: (model(batch[0])[0], batch[0])  # noqa: E731
    roles = roles_of(convnext, images, logits)
    assert {roles[name] for name in roles if "layer_scale" in name} == {SCALES}
    assert {roles[name] for name in roles if "dwconv.weight" in name} == {WEIGHTS}

    swin = hf.SwinModel(hf.SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2],
                                      window_size=4))  # fmt: skip
    roles = roles_of(swin, images, logits)
    tables = [name for name in roles if "relative_position_bias_table" in name]
    assert len(tables) == 2 and {roles[name] for name in tables} == {WEIGHTS}

    mamba = hf.Mamba2Model(hf.Mamba2Config(vocab_size=11, hidden_size=16, num_heads=4, head_dim=8, state_size=4,
                                           num_hidden_layers=1, n_groups=1, expand=2, chunk_size=4))  # fmt: skip
    tokens = torch.arange(8).reshape(2, 4)
    roles = roles_of(mamba, tokens, logits)
    assert {roles[name] for name in roles if name.endswith("norm.weight") or name.endswith("norm_f.weight")} == {SCALES}
    assert roles["layers.0.mixer.dt_bias"] == BIASES
    assert roles["layers.0.mixer.D"] == SCALES
    assert roles["layers.0.mixer.in_proj.weight"] == roles["layers.0.mixer.conv1d.weight"] == WEIGHTS

    gpt2 = hf.GPT2Model(hf.GPT2Config(vocab_size=11, n_embd=8, n_layer=1, n_head=2))
    roles = roles_of(gpt2, tokens, logits)
    assert roles["h.0.attn.c_attn.weight"] == WEIGHTS
    assert roles["h.0.attn.c_attn.bias"] == BIASES
    vit = hf.ViTModel(hf.ViTConfig(image_size=32, patch_size=8, hidden_size=8, num_hidden_layers=1,
                                   num_attention_heads=2, intermediate_size=8))  # fmt: skip
    roles = roles_of(vit, images, logits)
    assert roles["embeddings.cls_token"] == roles["embeddings.position_embeddings"] == WEIGHTS


def test_a_pattern_that_leaves_nothing_is_said():
    objective = ln.Objective(nn.Sequential(Gate(), nn.Linear(6, 2)), "cross_entropy", (X, torch.arange(12) % 2),
                             params="0.alpha")  # fmt: skip
    with pytest.raises(errors.OptionError, match="exclude=\\(\\)"):
        ln.directions.random(objective)

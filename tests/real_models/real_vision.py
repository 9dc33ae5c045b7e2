"""Images, sound and both beside text: Hugging Face from configuration, networks by hand, torchvision and timm."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from real_case import Case, case, classes, cuts, negative_log_likelihood, normal, stir
from real_language import made
from torch import Tensor, nn

N = 10


def warmed(model: nn.Module, *inputs: Tensor) -> nn.Module:
    """Give BatchNorm running statistics that are not the initial ones."""
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(*inputs)
    return model.eval()


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    outputs = model(images)
    return outputs if isinstance(outputs, Tensor) else outputs.logits


def classified(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
    """Mean cross-entropy over the images, three at a time."""
    total = 0.0
    for images, targets in cuts(data, 3):
        total = total + negative_log_likelihood(logits_of(model, images), targets).sum()
    return total / len(data[1])


def share_classified(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    return float((logits_of(model, data[0]).argmax(1) == data[1]).double().mean())


CLASSIFIERS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "vit": (
        "ViTForImageClassification", 16,
        {"image_size": 16, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 48},
    ),
    "deit": (
        "DeiTForImageClassification", 16,
        {"image_size": 16, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 48},
    ),
    "beit": (
        "BeitForImageClassification", 16,
        {"image_size": 16, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 48, "use_relative_position_bias": True},
    ),
    "dinov2": (
        "Dinov2ForImageClassification", 16,
        {"image_size": 16, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    ),
    "swin": (
        "SwinForImageClassification", 16,
        {"image_size": 16, "patch_size": 2, "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4},
    ),
    "convnext": (
        "ConvNextForImageClassification", 16,
        {"patch_size": 2, "hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    ),
    "resnet": (
        "ResNetForImageClassification", 24,
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    ),
    "regnet": (
        "RegNetForImageClassification", 24,
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 4},
    ),
    "mobilenet-v2": ("MobileNetV2ForImageClassification", 32, {"depth_multiplier": 0.1, "image_size": 32}),
    "efficientnet": (
        "EfficientNetForImageClassification", 32,
        {"image_size": 32, "width_coefficient": 0.2, "depth_coefficient": 0.2, "hidden_dim": 256},
    ),
    "poolformer": (
        "PoolFormerForImageClassification", 32,
        {"hidden_sizes": [8, 16], "depths": [1, 1], "num_encoder_blocks": 2, "patch_sizes": [7, 3], "strides": [4, 2],
         "padding": [2, 1]},
    ),
}  # fmt: skip


def _classifier(kind: str, size: int, options: dict[str, Any]) -> Callable[[int], Case]:
    def build(seed: int) -> Case:
        model = made(kind, seed, num_labels=5, **options)
        images, targets = normal(seed, N, 3, size, size), classes(seed, 5, N)
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
            warmed(model, images)
        options_of_objective = {
            "batch_size": 4,
            "forward": lambda model, batch: (model(batch[0]).logits, batch[1]),
        }
        if kind.startswith("ViT"):  # what has `.logits` needs no forward
            del options_of_objective["forward"]
        return Case(
            model, "cross_entropy", (images, targets), classified, share_classified, options_of_objective,
            tuned=kind.startswith("ResNet"),
        )  # fmt: skip

    return build


for _name, (_kind, _size, _options) in CLASSIFIERS.items():
    case(_name, "vision", _kind, "cross-entropy", "(x, y) tensors", "transformers")(_classifier(_kind, _size, _options))


@case("segformer", "vision", "SegformerForSemanticSegmentation", "cross-entropy of pixels, 255 ignored",
      "(x, y) tensors", "transformers")  # fmt: skip
def _segformer(seed: int) -> Case:
    model = made(
        "SegformerForSemanticSegmentation", seed, num_labels=4, num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1],
        hidden_sizes=[8, 16], patch_sizes=[7, 3], strides=[4, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2],
        decoder_hidden_size=16,
    )  # fmt: skip
    stir(model, seed, 0.3)  # as it is initialised its outputs hardly differ
    images, masks = normal(seed, 7, 3, 32, 32), classes(seed, 4, 7, 8, 8)
    masks[classes(seed + 1, 4, 7, 8, 8) == 0] = 255
    masks[2] = 255  # nothing of this image counts

    def plain(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
        total, count = 0.0, 0
        for image, mask in zip(*data, strict=True):
            logits = model(image[None]).logits[0].movedim(0, -1)
            total = total + negative_log_likelihood(logits[mask != 255], mask[mask != 255]).sum()
            count += int((mask != 255).sum())
        return total / count

    def accuracy(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
        valid = data[1] != 255
        return float((model(data[0]).logits.argmax(1) == data[1])[valid].double().mean())

    loss = nn.CrossEntropyLoss(ignore_index=255)
    return Case(model, loss, (images, masks), plain, accuracy, {"batch_size": 3})


@case("detr", "vision", "DetrForObjectDetection", "classes and boxes of queries matched beforehand",
      "list of dicts, targets concatenated", "transformers")  # fmt: skip
def _detr(seed: int) -> Case:
    import transformers

    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    model = made(
        "DetrForObjectDetection", seed, backbone_config=backbone, use_timm_backbone=False, backbone=None,
        use_pretrained_backbone=False, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, num_queries=5, num_labels=3,
    )  # fmt: skip
    batches = []
    for i in range(3):
        images, boxes = normal(seed + i, 2, 3, 32, 32), 2
        batches.append({
            "pixel_values": images,
            "image": torch.arange(2).repeat_interleave(boxes),
            "query": torch.tensor([0, 3, 1, 4]),
            "label": classes(seed + i, 3, 2 * boxes),
            "box": torch.rand(2 * boxes, 4, generator=torch.Generator().manual_seed(seed + i)),
        })  # fmt: skip

    def detected(model: Any, batch: dict[str, Tensor]) -> tuple[Any, Any]:
        outputs = model(batch["pixel_values"])
        rows = batch["image"], batch["query"]
        return (outputs.logits[rows], outputs.pred_boxes[rows]), (batch["label"], batch["box"])

    def loss(outputs: Any, targets: Any) -> Tensor:
        return F.cross_entropy(outputs[0], targets[0]) + 5 * F.l1_loss(outputs[1], targets[1])

    def plain(model: nn.Module, batches: list[dict[str, Tensor]]) -> Tensor:
        own = []
        for batch in batches:  # equally many boxes a batch: the mean over the boxes is that of the batches
            outputs = model(batch["pixel_values"])
            for i, q, label, box in zip(*(batch[key] for key in ("image", "query", "label", "box")), strict=True):
                wrong = negative_log_likelihood(outputs.logits[i, q], label)
                own.append(wrong + 5 * (outputs.pred_boxes[i, q] - box).abs().mean())
        return torch.stack(own).mean()

    return Case(model, loss, batches, plain, options={"forward": detected})


@case("wav2vec2", "audio", "Wav2Vec2ForCTC", "CTC, the model's own", "list of dicts", "transformers")
def _wav2vec2(seed: int) -> Case:
    model = made(
        "Wav2Vec2ForCTC", seed, vocab_size=12, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48, conv_dim=[8, 8], conv_kernel=[8, 4], conv_stride=[4, 4], num_feat_extract_layers=2,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4, pad_token_id=0, mask_time_prob=0.0,
        ctc_loss_reduction="mean",
    )  # fmt: skip
    batches = [{"input_values": normal(seed + i, 3, 240), "labels": classes(seed + i, 11, 3, 4) + 1} for i in range(3)]

    def plain(model: nn.Module, batches: list[dict[str, Tensor]]) -> Tensor:
        own = []
        for batch in batches:
            for sound, word in zip(batch["input_values"], batch["labels"], strict=True):
                scores = model(sound[None]).logits[0].log_softmax(-1)
                own.append(-ctc_log_likelihood(scores, word) / len(word))
        return torch.stack(own).mean()

    return Case(model, None, batches, plain)


def ctc_log_likelihood(scores: Tensor, word: Tensor, blank: int = 0) -> Tensor:
    """Graves et al. 2006, eqs. 6-8: the forward recursion over blank, w1, blank, w2, … blank, in logarithms."""
    extended = [blank]
    for symbol in word.tolist():
        extended += [symbol, blank]
    never = scores.new_tensor(-torch.inf)
    alpha = [scores[0, extended[0]], scores[0, extended[1]]] + [never] * (len(extended) - 2)
    for step in scores[1:]:
        following = []
        for s, symbol in enumerate(extended):
            ways = [alpha[s]] + ([alpha[s - 1]] if s else [])
            if s > 1 and symbol != blank and symbol != extended[s - 2]:
                ways.append(alpha[s - 2])
            finite = [way for way in ways if float(way.detach()) > -torch.inf]
            following.append(torch.logsumexp(torch.stack(finite), 0) + step[symbol] if finite else never)
        alpha = following
    return torch.logsumexp(torch.stack(alpha[-2:]), 0)


@case("speech transformer", "audio", "ASTForAudioClassification", "cross-entropy", "(x, y) tensors", "transformers")
def _ast(seed: int) -> Case:
    model = made(
        "ASTForAudioClassification", seed, num_labels=4, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48, patch_size=4, max_length=16, num_mel_bins=16, frequency_stride=4, time_stride=4,
    )  # fmt: skip
    data = normal(seed, N, 16, 16), classes(seed, 4, N)
    return Case(model, "cross_entropy", data, classified, share_classified, {"batch_size": 4})


@case("clip", "text and images", "CLIPModel", "contrastive in the batch, the model's own", "list of dicts",
      "transformers")  # fmt: skip
def _clip(seed: int) -> Case:
    import transformers

    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    config = transformers.CLIPConfig(
        text_config=shape | {"vocab_size": 48, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2},
        vision_config=shape | {"image_size": 16, "patch_size": 8},
        projection_dim=16,
    )
    model = stir(transformers.CLIPModel(config), seed)
    batches = [
        {"input_ids": classes(seed + i, 45, 4, 6) + 3, "pixel_values": normal(seed + i, 4, 3, 16, 16),
         "return_loss": True}
        for i in range(3)
    ]  # fmt: skip

    def plain(model: nn.Module, batches: list[dict[str, Any]]) -> Tensor:
        own = []
        for batch in batches:
            outputs = model(input_ids=batch["input_ids"], pixel_values=batch["pixel_values"])
            text, image = (F.normalize(part, dim=-1) for part in (outputs.text_embeds, outputs.image_embeds))
            scores = model.logit_scale.exp() * text @ image.T
            pairs = torch.arange(len(scores))
            own.append((negative_log_likelihood(scores, pairs) + negative_log_likelihood(scores.T, pairs)).mean() / 2)
        return torch.stack(own).mean()

    return Case(model, None, batches, plain)


# ---------------------------------------------------------------------- by hand


class Unet(nn.Module):
    """Two levels, a skip connection, group norm and a transposed convolution."""

    def __init__(self, channels: int = 3, out: int = 4) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU())
        self.deep = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.head = nn.Conv2d(16, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        high = self.down(x)
        return self.head(torch.cat([high, self.up(self.deep(high))], 1))


@case("unet", "vision", "UNet by hand", "cross-entropy of pixels with class weights, some ignored (-100)")
def _unet(seed: int) -> Case:
    images, masks = normal(seed, N, 3, 12, 12), classes(seed, 4, N, 12, 12)
    masks[:, :3] = -100
    masks[4, :9] = -100
    model = warmed(stir(Unet(), seed), images)
    weight = torch.tensor([0.2, 1.0, 3.0, 0.7])

    def plain(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
        logits, valid = model(data[0]).movedim(1, -1), data[1] != -100
        each, share = negative_log_likelihood(logits[valid], data[1][valid]), weight[data[1][valid]]
        return (each * share).sum() / share.sum()

    def accuracy(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
        """The loss weighs a pixel by its class, and so does the accuracy beside it: see `Objective`."""
        valid = data[1] != -100
        return float((model(data[0]).argmax(1) == data[1])[valid].double().mean())

    loss = nn.CrossEntropyLoss(weight)
    return Case(model, loss, (images, masks), plain, accuracy, {"batch_size": 3}, tuned=True)


class Mixer(nn.Module):
    """Tolstikhin et al. 2021, small."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, stride=4)
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(2))
        self.tokens = nn.Sequential(nn.Linear(9, 12), nn.GELU(), nn.Linear(12, 9))
        self.channels = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
        return self.head((x + self.channels(self.norms[1](x))).mean(1))


class Perceiver(nn.Module):
    """A few latents that attend to many inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 16)
        self.latents = nn.Parameter(torch.randn(4, 16))
        self.cross = nn.MultiheadAttention(16, 2, batch_first=True)
        self.own = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, norm_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(2).transpose(1, 2))
        latents = self.cross(self.latents.expand(len(x), -1, -1), x, x, need_weights=False)[0]
        return self.head(self.own(latents).mean(1))


class BottleneckWithEverything(nn.Module):
    """Depthwise and grouped convolutions, squeeze and excitation, a residual, adaptive pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, bias=False)
        self.first = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.second = nn.BatchNorm2d(8, affine=False)
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 2, 1), nn.ReLU(), nn.Conv2d(2, 8, 1))
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.third = nn.BatchNorm2d(8, momentum=None)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.first(self.stem(x)))
        y = self.second(self.depthwise(x))
        y = self.third(self.grouped(y * torch.sigmoid(self.squeeze(y))))
        return self.head(F.adaptive_avg_pool2d(F.hardswish(x + y), 1).flatten(1))


def _by_hand(make: Callable[[], nn.Module], options: dict[str, Any], tuned: bool = False) -> Callable[[int], Case]:
    def build(seed: int) -> Case:
        images, targets = normal(seed, 36, 3, 12, 12), classes(seed, 5, 36)
        model = warmed(stir(make(), seed), images)
        return Case(
            model, "cross_entropy", (images, targets), classified, share_classified, {"batch_size": 8, **options},
            tuned=tuned,
        )  # fmt: skip

    return build


def plain_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3),
        nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5),
    )  # fmt: skip


case("mlp-mixer", "vision", "MLP-Mixer by hand", "cross-entropy", "(x, y) tensors")(_by_hand(Mixer, {}))
case("perceiver", "vision", "Perceiver-like, by hand", "cross-entropy", "(x, y) tensors")(_by_hand(Perceiver, {}))
case("bottleneck", "vision", "grouped and depthwise convolutions, squeeze and excitation", "cross-entropy",
     "(x, y) tensors")(_by_hand(BottleneckWithEverything, {}))  # fmt: skip
case("cnn", "vision", "convolutions and BatchNorm", "cross-entropy", "(x, y) tensors")(
    _by_hand(plain_cnn, {}, tuned=True)
)


def _batch_statistics(seed: int) -> Case:
    """bn="batch": every batch with its own statistics, so the batches are the user's."""
    images, targets = normal(seed, 36, 3, 12, 12), classes(seed, 5, 36)
    model = warmed(stir(plain_cnn(), seed), images)

    def plain(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
        model.train()
        total = sum(negative_log_likelihood(model(x), y).sum() for x, y in cuts(data, 9))
        model.eval()
        return total / len(data[1])

    return Case(model, "cross_entropy", (images, targets), plain, None, {"batch_size": 9, "bn": "batch"})


case("cnn, batch statistics", "vision", "convolutions and BatchNorm", "cross-entropy, bn='batch'")(_batch_statistics)


def _recomputed_statistics(seed: int) -> Case:
    """bn="recompute": the mean of the batches' statistics, as torch.optim.swa_utils.update_bn makes them."""
    images, targets = normal(seed, 36, 3, 12, 12), classes(seed, 5, 36)
    model = warmed(stir(plain_cnn(), seed), images)

    def plain(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
        torch.optim.swa_utils.update_bn(list(cuts(data, 9)), model)
        return classified(model.eval(), data)

    options = {"batch_size": 9, "bn": "recompute"}
    return Case(model, "cross_entropy", (images, targets), plain, None, options, differentiable=False)


case("cnn, recomputed statistics", "vision", "convolutions and BatchNorm", "cross-entropy, bn='recompute'")(
    _recomputed_statistics
)


@case("autoencoder", "vision", "convolutions and transposed convolutions", "mean squared error of images",
      "tensor, forward=")  # fmt: skip
def _autoencoder(seed: int) -> Case:
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.ELU(),
        nn.ConvTranspose2d(8, 1, 4, stride=2, padding=1),
        nn.Sigmoid(),
    )
    images = torch.sigmoid(normal(seed, 20, 1, 8, 8))

    def plain(model: nn.Module, images: Tensor) -> Tensor:
        return torch.stack([(model(image[None]) - image).square().mean() for image in images]).mean()

    options = {"forward": lambda model, batch: (model(batch), batch), "batch_size": 6}
    return Case(stir(model, seed), "mse", images, plain, None, options)


# ---------------------------------------------------------------------- by name, where they are installed


def _named(package: str, name: str, size: int, **options: Any) -> Callable[[int], Case]:
    def build(seed: int) -> Case:
        if package == "timm":
            import timm

            model = timm.create_model(name, pretrained=False, num_classes=5, **options)
        else:
            import torchvision

            model = torchvision.models.get_model(name, weights=None, num_classes=5, **options)
        images, targets = normal(seed, 6, 3, size, size), classes(seed, 5, 6)
        return Case(
            warmed(stir(model, seed, 0.005), images), "cross_entropy", (images, targets), classified, share_classified,
            {"batch_size": 4},
        )  # fmt: skip

    return build


for _name, _size in (("resnet18", 32), ("mobilenet_v3_small", 32), ("squeezenet1_1", 40), ("shufflenet_v2_x0_5", 32)):
    case(f"torchvision {_name}", "by name", f"torchvision {_name}", "cross-entropy", "(x, y) tensors", "torchvision")(
        _named("torchvision", _name, _size)
    )
for _name in ("resnet10t", "mobilenetv3_small_050", "convnext_atto", "efficientnet_b0"):
    case(f"timm {_name}", "by name", f"timm {_name}", "cross-entropy", "(x, y) tensors", "timm")(
        partial(_named("timm", _name, 32))
    )

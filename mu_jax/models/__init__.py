"""Reference architectures as flax modules, and the convolution they use."""

from mu_jax.models.allcnn import AllCNN
from mu_jax.models.cnn import CNN
from mu_jax.models.convolution import convolution_by_backend, patch_convolution
from mu_jax.models.decoder import Decoder, DecoderConfig
from mu_jax.models.mlp import MLP
from mu_jax.models.regression_cnn import RegressionCNN
from mu_jax.models.resnet import ResNet9, ResNet18, ResNet50
from mu_jax.models.sentence_pair_lstm import SentencePairLSTM
from mu_jax.models.temporal_fusion_transformer import TemporalFusionTransformer
from mu_jax.models.tunix_rows import TunixRows
from mu_jax.models.vit import ViT, ViTB16, ViTTiny

__all__ = [
    "CNN",
    "MLP",
    "AllCNN",
    "Decoder",
    "DecoderConfig",
    "RegressionCNN",
    "ResNet9",
    "ResNet18",
    "ResNet50",
    "SentencePairLSTM",
    "TemporalFusionTransformer",
    "TunixRows",
    "ViT",
    "ViTB16",
    "ViTTiny",
    "convolution_by_backend",
    "patch_convolution",
]

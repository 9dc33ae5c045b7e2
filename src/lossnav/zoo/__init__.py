"""Networks with their data and training: the seed notebook's own example, and those of Li et al. 2018 for CIFAR-10."""

from lossnav.zoo.augmentation import crop_and_flip
from lossnav.zoo.data import Data, cifar10, digits, load_data, mnist
from lossnav.zoo.models import NotebookCNN, initialize, notebook_cnn
from lossnav.zoo.recipes import CIFAR_MEAN, CIFAR_STD, RECIPES, Recipe, recipe
from lossnav.zoo.resnet import ResNet, resnet
from lossnav.zoo.training import History, accuracy, learning_rate, train
from lossnav.zoo.vgg import VGG9, vgg9

__all__ = [
    "CIFAR_MEAN",
    "CIFAR_STD",
    "RECIPES",
    "VGG9",
    "Data",
    "History",
    "NotebookCNN",
    "Recipe",
    "ResNet",
    "accuracy",
    "cifar10",
    "crop_and_flip",
    "digits",
    "initialize",
    "learning_rate",
    "load_data",
    "mnist",
    "notebook_cnn",
    "recipe",
    "resnet",
    "train",
    "vgg9",
]

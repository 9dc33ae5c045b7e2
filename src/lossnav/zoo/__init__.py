"""The seed notebook's own example, and nothing more: its data, its network, its training."""

from lossnav.zoo.data import Data, cifar10, digits, load_data, mnist
from lossnav.zoo.models import NotebookCNN, notebook_cnn
from lossnav.zoo.recipes import RECIPES, Recipe, recipe
from lossnav.zoo.training import History, accuracy, train

__all__ = [
    "RECIPES",
    "Data",
    "History",
    "NotebookCNN",
    "Recipe",
    "accuracy",
    "cifar10",
    "digits",
    "load_data",
    "mnist",
    "notebook_cnn",
    "recipe",
    "train",
]

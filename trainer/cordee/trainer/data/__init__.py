"""Datasets, and the loader that cuts every global batch into a fixed number of logical shards."""

from cordee.trainer.data import datasets
from cordee.trainer.data.batch import Batch
from cordee.trainer.data.dataset import Dataset, Subset, TensorDataset
from cordee.trainer.data.loader import DataLoader
from cordee.trainer.data.sampler import epoch_order

__all__ = ["Batch", "DataLoader", "Dataset", "Subset", "TensorDataset", "datasets", "epoch_order"]

"""Datasets, samplers, and the loader that cuts every global batch into a fixed number of logical shards."""

from cordee.trainer.data import datasets
from cordee.trainer.data.batch import Batch
from cordee.trainer.data.collate import default_collate, default_convert, pad_collate
from cordee.trainer.data.dataset import (
    ConcatDataset,
    Dataset,
    MappedDataset,
    StackDataset,
    Subset,
    TensorDataset,
    random_split,
)
from cordee.trainer.data.fetch import sample_rng
from cordee.trainer.data.files import MemmapDataset, TokenDataset
from cordee.trainer.data.loader import DataLoader
from cordee.trainer.data.order import Permutation, epoch_order
from cordee.trainer.data.sampler import (
    BatchSampler,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from cordee.trainer.data.stream import ChainDataset, IterableDataset, MappedStream, ShuffledStream
from cordee.trainer.data.worker import get_worker_info

__all__ = [
    "Batch",
    "BatchSampler",
    "ChainDataset",
    "ConcatDataset",
    "DataLoader",
    "Dataset",
    "DistributedSampler",
    "IterableDataset",
    "MappedDataset",
    "MappedStream",
    "MemmapDataset",
    "Permutation",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "ShuffledStream",
    "StackDataset",
    "Subset",
    "SubsetRandomSampler",
    "TensorDataset",
    "TokenDataset",
    "WeightedRandomSampler",
    "datasets",
    "default_collate",
    "default_convert",
    "epoch_order",
    "get_worker_info",
    "pad_collate",
    "random_split",
    "sample_rng",
]

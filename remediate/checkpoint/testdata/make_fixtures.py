"""Writes the .metadata fixtures of this folder with CPython's own pickle.

    python3 make_fixtures.py FOLDER

PyTorch is not needed: the modules and classes that checkpoint metadata is
pickled from are stood in for by classes with the same module, name, fields and
way of being pickled. Run with Python 3.8 or later.
"""

import collections
import copyreg
import dataclasses
import enum
import os
import pathlib
import pickle
import sys
import types


def module(name):
    m = types.ModuleType(name)
    sys.modules[name] = m
    return m


def place(m, name=None):
    """Makes a class or function appear as defined in module m."""

    def decorate(obj):
        obj.__module__ = m.__name__
        obj.__qualname__ = obj.__name__ = name or obj.__name__
        setattr(m, obj.__name__, obj)
        return obj

    return decorate


torch = module("torch")
serialization = module("torch.serialization")
for parent in ("torch.distributed", "torch.distributed.checkpoint", "torch.distributed._shard", "torch.distributed._shard.sharded_tensor"):
    module(parent)
metadata = module("torch.distributed.checkpoint.metadata")
filesystem = module("torch.distributed.checkpoint.filesystem")
old = module("torch.distributed._shard.sharded_tensor.metadata")


@place(torch)
class Size(tuple):
    def __reduce__(self):
        return (Size, (tuple(self),))


@place(torch)
class dtype:
    def __init__(self, name):
        self.name = name

    def __reduce__(self):
        return self.name


for name in ("float32", "bfloat16", "int64"):
    setattr(torch, name, dtype(name))


@place(torch)
class layout:
    def __str__(self):
        return "torch.strided"


strided = layout()


@place(serialization)
def _get_layout(name):
    return strided


copyreg.pickle(layout, lambda obj: (_get_layout, (str(obj),)))


@place(metadata)
@dataclasses.dataclass
class ChunkStorageMetadata:
    offsets: Size
    sizes: Size


@place(metadata)
class _MEM_FORMAT_ENCODING(enum.Enum):
    TORCH_CONTIGUOUS_FORMAT = 0

    def __reduce_ex__(self, protocol):
        if ENUM_BY_NAME:  # what Python 3.11.0 to 3.11.3 do
            return getattr, (self.__class__, self.name)
        return self.__class__, (self.value,)


ENUM_BY_NAME = False


class Properties:
    """TensorProperties in both of its homes."""

    def __init__(self, dtype):
        self.dtype = dtype

    def __getstate__(self):
        return (self.dtype, strided, False, _MEM_FORMAT_ENCODING.TORCH_CONTIGUOUS_FORMAT, False)

    def __setstate__(self, state):
        self.dtype = state[0]


@place(metadata)
class TensorProperties(Properties):
    pass


@place(old, "TensorProperties")
class OldTensorProperties(Properties):
    pass


@place(metadata)
@dataclasses.dataclass
class TensorStorageMetadata:
    properties: object
    size: Size
    chunks: list


@place(metadata)
@dataclasses.dataclass
class BytesStorageMetadata:
    pass


@place(metadata)
@dataclasses.dataclass
class StorageMeta:
    checkpoint_id: object = None
    save_id: str = None
    load_id: str = None
    modules: list = dataclasses.field(default_factory=list)


@place(metadata)
@dataclasses.dataclass
class Metadata:
    state_dict_metadata: dict
    planner_data: object = None
    storage_data: object = None
    storage_meta: object = None
    version: str = None


@place(metadata)
@dataclasses.dataclass(frozen=True)
class MetadataIndex:
    fqn: str
    offset: object = None
    index: int = dataclasses.field(hash=False, compare=False, default=None)


@place(filesystem)
@dataclasses.dataclass
class _StorageInfo:
    relative_path: str
    offset: object
    length: object
    transform_descriptors: object = None

    def __getstate__(self):
        return {k: v for k, v in self.__dict__.items() if v is not None}


EXPERTS = "model.layers.0.moe.experts.w1"


def whole(properties=TensorProperties):
    """Two ranks: a tensor of four experts sharded over both, and a step count."""
    chunks = [ChunkStorageMetadata(Size((0, 0, 0)), Size((2, 4, 4))), ChunkStorageMetadata(Size((2, 0, 0)), Size((2, 4, 4)))]
    return Metadata(
        state_dict_metadata={
            EXPERTS: TensorStorageMetadata(properties(torch.bfloat16), Size((4, 4, 4)), chunks),
            "train_state": BytesStorageMetadata(),
        },
        planner_data={EXPERTS: ("model", "layers", 0, "moe.experts.w1"), "train_state": ("train_state",)},
        storage_data={
            MetadataIndex(EXPERTS, Size((0, 0, 0)), 0): _StorageInfo("__0_0.distcp", 0, 64),
            MetadataIndex("train_state"): _StorageInfo("__0_0.distcp", 64, 36),
            MetadataIndex(EXPERTS, Size((2, 0, 0)), 1): _StorageInfo("__1_0.distcp", 0, 64),
        },
        storage_meta=StorageMeta(checkpoint_id=pathlib.PurePosixPath("/checkpoints/step-20"), save_id="7b1f"),
        version="1.0.0",
    )


def without_later_fields():
    """As PyTorch 2.0 wrote it."""
    m = whole(OldTensorProperties)
    del m.storage_meta, m.version
    return m


def with_storage(*infos):
    """The whole checkpoint with other storage for its first entries."""
    m = whole()
    for key, info in zip(list(m.storage_data), infos):
        m.storage_data[key] = info
    return m


def with_storage_data(storage_data):
    m = whole()
    m.storage_data = storage_data
    return m


def with_planner_data(planner_data):
    m = whole()
    m.planner_data = planner_data
    return m


def with_chunk_nowhere():
    m = whole()
    del m.storage_data[MetadataIndex(EXPERTS, Size((2, 0, 0)))]
    return m


class Call:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def cyclic():
    items = []
    items.append(items)
    return items


def nested(depth):
    value = None
    for _ in range(depth):
        value = [value]
    return value


def shared(depth):
    """A value whose full expansion has 2**depth parts."""
    value = ["leaf"]
    for _ in range(depth):
        value = [value, value]
    return value


SHARD = "__0_0.distcp"
CASES = {
    "without-later-fields": without_later_fields(),
    "ordered-dicts": with_storage_data(collections.OrderedDict(whole().storage_data)),
    "transforms": with_storage(_StorageInfo(SHARD, 0, 64, ["zstd", "encrypt"])),
    "sets": with_planner_data([{1, 2}, frozenset((3,)), -1, 300, 70000, 1 << 40, -(1 << 40), 1.5, b"raw", bytearray(b"raw"), True, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)]),
    "shared": with_planner_data(shared(40)),
    "touching": with_storage(_StorageInfo(SHARD, 0, 64), _StorageInfo(SHARD, 64, 36)),
    "overlapping": with_storage(_StorageInfo(SHARD, 0, 65), _StorageInfo(SHARD, 64, 36)),
    "offset-negative": with_storage(_StorageInfo(SHARD, -1, 64)),
    "length-negative": with_storage(_StorageInfo(SHARD, 0, -1)),
    "end-beyond-int64": with_storage(_StorageInfo(SHARD, (1 << 63) - 64, 64)),
    "end-at-int64": with_storage(_StorageInfo(SHARD, (1 << 63) - 65, 64)),
    "offset-beyond-int64": with_storage(_StorageInfo(SHARD, 1 << 63, 64)),
    "offset-float": with_storage(_StorageInfo(SHARD, 0.0, 64)),
    "path-above": with_storage(_StorageInfo("../__0_0.distcp", 0, 64)),
    "path-absolute": with_storage(_StorageInfo("/etc/passwd", 0, 64)),
    "path-long": with_storage(_StorageInfo("a" * 256, 0, 64)),
    "path-empty": with_storage(_StorageInfo("", 0, 64)),
    "storage-empty": with_storage_data({}),
    "storage-none": with_storage_data(None),
    "chunk-nowhere": with_chunk_nowhere(),
    "not-metadata": {"storage_data": {}},
    "hostile-system": with_planner_data(Call(os.system, "touch executed")),
    "hostile-eval": with_planner_data(Call(eval, "1")),
    "hostile-getattr": with_planner_data(Call(getattr, os, "system")),
    "cyclic": with_planner_data(cyclic()),
    "nested-deep": with_planner_data(nested(80)),
}


def save(folder, name, content):
    with open(os.path.join(folder, name + ".metadata"), "wb") as f:
        f.write(content)


def main(folder):
    global ENUM_BY_NAME
    copyreg.pickle(types.ModuleType, lambda m: (__import__, (m.__name__,)))
    for protocol in range(2, min(5, pickle.HIGHEST_PROTOCOL) + 1):
        save(folder, "whole-protocol-%d" % protocol, pickle.dumps(whole(), protocol))
    for name, value in CASES.items():
        save(folder, name, pickle.dumps(value, 4 if name != "sets" else pickle.HIGHEST_PROTOCOL))
    ENUM_BY_NAME = True
    save(folder, "enum-by-name", pickle.dumps(whole(), 4))
    save(folder, "string-huge", b"\x80\x04\x8d" + (1 << 62).to_bytes(8, "little") + b"x.")
    save(folder, "protocol-0", pickle.dumps({"a": 1}, 0))


if __name__ == "__main__":
    main(sys.argv[1])

"""Reads a checkpoint with CPython's own pickle and zipfile and prints as JSON
what it holds: for each name its shape, element type, and the elements of each
chunk by offset; for each object its fields.

    python3 read_checkpoint.py FOLDER

PyTorch is not needed: its classes are stood in for, with __init__ left out as
unpickling does, and its tensors are rebuilt as lists.
"""

import enum
import json
import os
import pickle
import struct
import sys
import types
import zipfile
import io


def module(name):
    m = types.ModuleType(name)
    sys.modules[name] = m
    return m


torch = module("torch")
for parent in ("torch.distributed", "torch.distributed.checkpoint"):
    module(parent)
serialization = module("torch.serialization")
utils = module("torch._utils")
metadata = module("torch.distributed.checkpoint.metadata")
filesystem = module("torch.distributed.checkpoint.filesystem")


class Size(tuple):
    pass


class FloatStorage:
    pass


torch.Size, torch.FloatStorage, torch.float32 = Size, FloatStorage, "float32"
serialization._get_layout = lambda name: {"torch.strided": "strided"}[name]


class Plain:
    pass


class Frozen:
    """MetadataIndex: its hash must not be needed before its state is there."""

    def __hash__(self):
        return hash((self.fqn, self.offset))

    def __eq__(self, other):
        return (self.fqn, self.offset) == (other.fqn, other.offset)


class TensorProperties:
    def __setstate__(self, state):
        self.dtype, self.layout, self.requires_grad, self.memory_format, self.pin_memory = state


class MemoryFormat(enum.Enum):
    TORCH_CONTIGUOUS_FORMAT = 0


for name in ("Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata", "StorageMeta"):
    setattr(metadata, name, type(name, (Plain,), {}))
metadata.MetadataIndex = Frozen
metadata.TensorProperties = TensorProperties
metadata._MEM_FORMAT_ENCODING = MemoryFormat
filesystem._StorageInfo = type("_StorageInfo", (Plain,), {})


class Archive(pickle.Unpickler):
    """An object saved by torch.save, without torch."""

    def __init__(self, content):
        self.members = zipfile.ZipFile(io.BytesIO(content))
        assert self.members.testzip() is None
        assert self.members.read("archive/version") == b"3\n"
        assert self.members.read("archive/byteorder") == b"little"
        super().__init__(io.BytesIO(self.members.read("archive/data.pkl")))

    def persistent_load(self, pid):
        kind, storage, key, location, count = pid
        assert (kind, storage, location) == ("storage", FloatStorage, "cpu")
        raw = self.members.read("archive/data/" + key)
        assert len(raw) == 4 * count
        return struct.unpack("<%df" % count, raw)


def rebuild(storage, offset, size, stride, requires_grad, hooks):
    expected, n = [], 1
    for dim in reversed(size):
        expected.insert(0, n)
        n *= dim
    assert tuple(expected) == stride and offset == 0 and n == len(storage) and not requires_grad and not hooks
    return {"shape": list(size), "elements": list(storage)}


utils._rebuild_tensor_v2 = rebuild


def main(folder):
    with open(os.path.join(folder, ".metadata"), "rb") as f:
        m = pickle.load(f)
    out = {"tensors": {}, "objects": {}}
    for fqn, item in m.state_dict_metadata.items():
        assert m.planner_data[fqn] == (fqn,)
        if isinstance(item, metadata.TensorStorageMetadata):
            assert item.properties.memory_format is MemoryFormat.TORCH_CONTIGUOUS_FORMAT and item.properties.layout == "strided"
            chunks = {str(list(c.offsets)): list(c.sizes) for c in item.chunks}
            out["tensors"][fqn] = {"size": list(item.size), "dtype": item.properties.dtype, "sizes": chunks, "chunks": {}}
    for index, info in m.storage_data.items():
        with open(os.path.join(folder, info.relative_path), "rb") as f:
            f.seek(info.offset)
            content = f.read(info.length)
            assert len(content) == info.length
        loaded = Archive(content).load()
        if index.offset is None:
            out["objects"][index.fqn] = loaded
        else:
            out["tensors"][index.fqn]["chunks"][str(list(index.offset))] = loaded
    json.dump(out, sys.stdout, indent=1, sort_keys=True)


main(sys.argv[1])

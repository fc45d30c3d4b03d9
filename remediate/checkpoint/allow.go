package checkpoint

import (
	"strings"

	"github.com/evenkeel/evenkeel/remediate/checkpoint/pickle"
)

// Modules whose names checkpoint metadata uses. The _shard module held
// TensorProperties up to PyTorch 2.2.
const (
	metadataModule   = "torch.distributed.checkpoint.metadata"
	filesystemModule = "torch.distributed.checkpoint.filesystem"
	shardModule      = "torch.distributed._shard.sharded_tensor.metadata"
)

// allowed lists every name that the metadata of a checkpoint may import.
var allowed = map[pickle.Global]bool{
	{Module: metadataModule, Name: "Metadata"}:              true,
	{Module: metadataModule, Name: "MetadataIndex"}:         true,
	{Module: metadataModule, Name: "TensorStorageMetadata"}: true,
	{Module: metadataModule, Name: "BytesStorageMetadata"}:  true,
	{Module: metadataModule, Name: "ChunkStorageMetadata"}:  true,
	{Module: metadataModule, Name: "TensorProperties"}:      true,
	{Module: metadataModule, Name: "StorageMeta"}:           true,
	{Module: metadataModule, Name: "_MEM_FORMAT_ENCODING"}:  true,
	{Module: shardModule, Name: "TensorProperties"}:         true,
	{Module: shardModule, Name: "MEM_FORMAT_ENCODING"}:      true,
	{Module: filesystemModule, Name: "_StorageInfo"}:        true,

	{Module: "torch", Name: "Size"}:                      true,
	{Module: "torch.serialization", Name: "_get_layout"}: true, // how a torch.layout is pickled

	// How Python 3.11.0 to 3.11.3 pickle a member of an enumeration; as a record
	// of a call it gives access to nothing.
	{Module: "builtins", Name: "getattr"}:    true,
	{Module: "__builtin__", Name: "getattr"}: true,

	{Module: "collections", Name: "OrderedDict"}:      true,
	{Module: "builtins", Name: "set"}:                 true,
	{Module: "builtins", Name: "frozenset"}:           true,
	{Module: "builtins", Name: "list"}:                true,
	{Module: "builtins", Name: "tuple"}:               true,
	{Module: "builtins", Name: "dict"}:                true,
	{Module: "__builtin__", Name: "set"}:              true, // the same under protocol 2
	{Module: "__builtin__", Name: "frozenset"}:        true,
	{Module: "pathlib", Name: "PosixPath"}:            true, // StorageMeta.checkpoint_id
	{Module: "pathlib", Name: "PurePosixPath"}:        true,
	{Module: "pathlib._local", Name: "PosixPath"}:     true, // the same in Python 3.13
	{Module: "pathlib._local", Name: "PurePosixPath"}: true,
}

// dtypes are the names under which torch pickles element types: as attributes
// of the module torch.
const dtypes = `
	bool uint8 int8 int16 int32 int64 uint16 uint32 uint64
	float16 bfloat16 float32 float64 complex32 complex64 complex128
	float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu float4_e2m1fn_x2
	quint8 qint8 qint32 quint4x2 quint2x4
	bits1x8 bits2x4 bits4x2 bits8 bits16
	int1 int2 int3 int4 int5 int6 int7 uint1 uint2 uint3 uint4 uint5 uint6 uint7`

func init() {
	for dtype := range strings.FieldsSeq(dtypes) {
		allowed[pickle.Global{Module: "torch", Name: dtype}] = true
	}
}

func allow(g pickle.Global) bool { return allowed[g] }

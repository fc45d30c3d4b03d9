package dcp

// Python objects, as far as a checkpoint needs them. None, bool, int64 and
// string stand for themselves.

// pyDict is a dict, in order.
type pyDict []pyPair

type pyPair struct{ key, value any }

type pyList []any

type pyTuple []any

// pyName is an importable name: a class, a function, or a dtype.
type pyName struct{ module, name string }

// pyCall is an object that is made by calling a function.
type pyCall struct {
	function pyName
	args     pyTuple
}

// pyObject is an object of a class that is restored from its state.
type pyObject struct {
	class pyName
	state any
}

// pyPersistent is an object that lies elsewhere: for torch.save, a storage.
type pyPersistent struct{ id any }

var (
	metadataClass    = pyName{"torch.distributed.checkpoint.metadata", "Metadata"}
	indexClass       = pyName{"torch.distributed.checkpoint.metadata", "MetadataIndex"}
	tensorClass      = pyName{"torch.distributed.checkpoint.metadata", "TensorStorageMetadata"}
	bytesClass       = pyName{"torch.distributed.checkpoint.metadata", "BytesStorageMetadata"}
	chunkClass       = pyName{"torch.distributed.checkpoint.metadata", "ChunkStorageMetadata"}
	propertiesClass  = pyName{"torch.distributed.checkpoint.metadata", "TensorProperties"}
	storageMetaClass = pyName{"torch.distributed.checkpoint.metadata", "StorageMeta"}
	memoryFormat     = pyName{"torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"}
	storageInfoClass = pyName{"torch.distributed.checkpoint.filesystem", "_StorageInfo"}
	sizeClass        = pyName{"torch", "Size"}
	float32DType     = pyName{"torch", "float32"}
	floatStorage     = pyName{"torch", "FloatStorage"}
	getLayout        = pyName{"torch.serialization", "_get_layout"}
	rebuildTensor    = pyName{"torch._utils", "_rebuild_tensor_v2"}
	orderedDict      = pyName{"collections", "OrderedDict"}
)

func pySize(dims []int) pyCall {
	return pyCall{sizeClass, pyTuple{pyInts(dims)}}
}

func pyInts(numbers []int) pyTuple {
	t := make(pyTuple, len(numbers))
	for i, n := range numbers {
		t[i] = int64(n)
	}
	return t
}

package checkpoint

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/evenkeel/evenkeel/remediate/checkpoint/pickle"
)

var (
	metadataClass = pickle.Global{Module: metadataModule, Name: "Metadata"}
	indexClass    = pickle.Global{Module: metadataModule, Name: "MetadataIndex"}
	tensorClass   = pickle.Global{Module: metadataModule, Name: "TensorStorageMetadata"}
	bytesClass    = pickle.Global{Module: metadataModule, Name: "BytesStorageMetadata"}
	chunkClass    = pickle.Global{Module: metadataModule, Name: "ChunkStorageMetadata"}
	storageClass  = pickle.Global{Module: filesystemModule, Name: "_StorageInfo"}
	sizeClass     = pickle.Global{Module: "torch", Name: "Size"}
	orderedDict   = pickle.Global{Module: "collections", Name: "OrderedDict"}
)

// fileNames holds each file name once.
type fileNames map[string]string

// convert makes the objects of which there are many into what is kept of them:
//
//	torch.Size             []int64
//	MetadataIndex          Index
//	_StorageInfo           Entry without its Index
//	ChunkStorageMetadata   Chunk
//	TensorStorageMetadata  Item without its FQN
//
// and leaves the others as they are.
func (f fileNames) convert(r *pickle.Record) (v any, size int, err error) {
	switch {
	case r.Class == sizeClass && r.State == nil:
		var dims []int64
		dims, err = decodeSize(r)
		v, size = dims, 24+8*len(dims)
	case r.State == nil:
		return r, 0, nil // only called, its state is to come
	case r.Class == indexClass:
		v, err = decodeIndex(r)
		size = int(unsafe.Sizeof(Index{}))
	case r.Class == storageClass:
		var e Entry
		e, err = f.decodeEntry(r)
		v, size = e, int(unsafe.Sizeof(e))+16*len(e.Transforms)
	case r.Class == chunkClass:
		v, err = decodeChunk(r)
		size = int(unsafe.Sizeof(Chunk{}))
	case r.Class == tensorClass:
		var item Item
		item, err = decodeItem(r)
		v, size = item, int(unsafe.Sizeof(item))+len(item.Chunks)*int(unsafe.Sizeof(Chunk{}))
	default:
		return r, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", r.Class.Name, err)
	}
	return v, size + sizesOf(v), nil
}

// sizesOf is what the shapes in a converted value take, in bytes.
func sizesOf(v any) int {
	switch v := v.(type) {
	case Index:
		return 8 * len(v.Offset)
	case Chunk:
		return 8 * (len(v.Offsets) + len(v.Sizes))
	case Item:
		n := 8 * len(v.Size)
		for _, c := range v.Chunks {
			n += sizesOf(c)
		}
		return n
	}
	return 0
}

func decodeSize(r *pickle.Record) ([]int64, error) {
	if len(r.Args) != 1 {
		return nil, fmt.Errorf("made from %d arguments", len(r.Args))
	}
	items, err := asSequence(r.Args[0])
	if err != nil {
		return nil, err
	}
	dims := make([]int64, len(items))
	for i, item := range items {
		n, ok := item.(int64)
		if !ok || n < 0 {
			return nil, errors.New("holds something that is no number of elements")
		}
		dims[i] = n
	}
	return dims, nil
}

func decodeIndex(r *pickle.Record) (index Index, err error) {
	if index.FQN, err = attr[string](r, "fqn"); err != nil {
		return index, err
	}
	if offset, ok := r.Attr("offset"); ok && offset != nil {
		index.Offset, err = attr[[]int64](r, "offset")
	}
	return index, err
}

func (f fileNames) decodeEntry(r *pickle.Record) (e Entry, err error) {
	if e.File, err = attr[string](r, "relative_path"); err != nil {
		return e, err
	}
	if known, ok := f[e.File]; ok {
		e.File = known
	} else {
		f[e.File] = e.File
	}
	if e.Offset, err = attr[int64](r, "offset"); err != nil {
		return e, err
	}
	if e.Length, err = attr[int64](r, "length"); err != nil {
		return e, err
	}
	value, ok := r.Attr("transform_descriptors")
	if !ok || value == nil {
		return e, nil
	}
	items, err := asSequence(value)
	if err != nil {
		return e, fmt.Errorf("transform_descriptors: %w", err)
	}
	e.Transforms = make([]string, len(items))
	for i, item := range items {
		if e.Transforms[i], ok = item.(string); !ok {
			return e, fmt.Errorf("transform_descriptors: holds a %T, not a string", item)
		}
	}
	return e, nil
}

func decodeChunk(r *pickle.Record) (c Chunk, err error) {
	if c.Offsets, err = attr[[]int64](r, "offsets"); err != nil {
		return c, err
	}
	c.Sizes, err = attr[[]int64](r, "sizes")
	return c, err
}

func decodeItem(r *pickle.Record) (item Item, err error) {
	if item.DType, err = decodeDType(r); err != nil {
		return item, fmt.Errorf("properties: %w", err)
	}
	if item.Size, err = attr[[]int64](r, "size"); err != nil {
		return item, err
	}
	chunks, err := attr[*pickle.List](r, "chunks")
	if err != nil {
		return item, err
	}
	item.Chunks = make([]Chunk, len(chunks.Items))
	for i, value := range chunks.Items {
		var ok bool
		if item.Chunks[i], ok = value.(Chunk); !ok {
			return item, fmt.Errorf("chunk %d: is a %T, not a ChunkStorageMetadata", i, value)
		}
	}
	return item, nil
}

// decodeDType finds the element type: the first element of the state of
// TensorProperties, which is a tuple, or the attribute of that name.
func decodeDType(tensor *pickle.Record) (string, error) {
	r, err := attr[*pickle.Record](tensor, "properties")
	if err != nil {
		return "", err
	}
	if r.Class.Name != "TensorProperties" {
		return "", fmt.Errorf("is a %s, not TensorProperties", r.Class)
	}
	dtype, ok := r.Attr("dtype")
	if state, isTuple := r.State.(pickle.Tuple); isTuple && len(state) > 0 {
		dtype, ok = state[0], true
	}
	if !ok {
		return "", errors.New("no dtype")
	}
	name, ok := dtype.(pickle.Global)
	if !ok || name.Module != "torch" {
		return "", fmt.Errorf("dtype: is a %T, not a torch.dtype", dtype)
	}
	return name.Name, nil
}

func asRecord(value any, class pickle.Global) (*pickle.Record, error) {
	r, ok := value.(*pickle.Record)
	if !ok {
		return nil, fmt.Errorf("is a %T, not a %s", value, class.Name)
	}
	if r.Class != class {
		return nil, fmt.Errorf("is a %s, not a %s", r.Class, class.Name)
	}
	return r, nil
}

func attr[T any](r *pickle.Record, name string) (T, error) {
	value, ok := r.Attr(name)
	typed, isT := value.(T)
	switch {
	case !ok:
		return typed, fmt.Errorf("%s: missing", name)
	case !isT:
		return typed, fmt.Errorf("%s: is a %T, not a %T", name, value, typed)
	}
	return typed, nil
}

// dictAttr gives the entries of an attribute that is a dict.
func dictAttr(r *pickle.Record, name string) ([]pickle.Pair, error) {
	value, ok := r.Attr(name)
	switch v := value.(type) {
	case *pickle.Dict:
		return v.Pairs, nil
	case *pickle.Record:
		if v.Class == orderedDict {
			return v.Pairs, nil
		}
	}
	if !ok {
		return nil, errors.New("missing")
	}
	return nil, fmt.Errorf("is a %T, not a dict", value)
}

func asSequence(value any) ([]any, error) {
	switch v := value.(type) {
	case pickle.Tuple:
		return v, nil
	case *pickle.List:
		return v.Items, nil
	}
	return nil, fmt.Errorf("is a %T, not a sequence", value)
}

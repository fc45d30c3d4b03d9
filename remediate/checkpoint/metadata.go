package checkpoint

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/evenkeel/evenkeel/remediate/checkpoint/pickle"
)

// Metadata is what a .metadata file says.
type Metadata struct {
	// Version is the writer's version of the format, empty if it gives none.
	Version string
	// Items are the tensors and objects of the state dict.
	Items []Item
	// Storage says where each part of them lies.
	Storage []Entry
}

// Item is a tensor or another object of the state dict.
type Item struct {
	// FQN is the fully qualified name of the parameter.
	FQN string
	// DType is the name of the element type, such as "bfloat16"; empty for an
	// object that is no tensor.
	DType string
	// Size is the shape of the whole tensor, in elements.
	Size []int64
	// Chunks are the parts that the ranks hold.
	Chunks []Chunk
}

// Tensor reports whether the item is a tensor.
func (i *Item) Tensor() bool { return i.DType != "" }

// Chunk is a part of a tensor, in elements.
type Chunk struct{ Offsets, Sizes []int64 }

// Index names a chunk of a tensor, or an object.
type Index struct {
	FQN string
	// Offset is the chunk's place in the tensor; nil for an object.
	Offset []int64
}

// String is the name with the offset as an index, and unique.
func (i Index) String() string {
	if i.Offset == nil {
		return i.FQN
	}
	b := append([]byte(i.FQN), '[')
	for n, o := range i.Offset {
		if n > 0 {
			b = append(b, ' ')
		}
		b = strconv.AppendInt(b, o, 10)
	}
	return string(append(b, ']'))
}

// Entry is where one chunk or object lies: Length bytes from Offset of File.
type Entry struct {
	Index  Index
	File   string // relative to the checkpoint's folder
	Offset int64
	Length int64
	// Transforms name what was done to the bytes, such as compression; Length
	// counts what lies in the file.
	Transforms []string
}

// MetadataLimits are the limits for a .metadata file. An entry of the storage
// table takes some 40 values and, with names, 150 bytes: half a million shards
// fit, those of 1,000 ranks with 500 tensors each.
var MetadataLimits = pickle.Limits{Bytes: 128 << 20, Values: 20_000_000, StringBytes: 1 << 20, Depth: 64}

// DecodeMetadata decodes the contents of a .metadata file. It executes nothing,
// and ignores attributes that it does not know.
func DecodeMetadata(data []byte) (*Metadata, error) {
	value, err := pickle.Decode(data, MetadataLimits, allow)
	if err != nil {
		return nil, err
	}
	r, err := asRecord(value, "Metadata")
	if err != nil {
		return nil, err
	}
	var m Metadata
	if version, ok := r.Attr("version"); ok && version != nil {
		if m.Version, ok = version.(string); !ok {
			return nil, fmt.Errorf("version: is a %T, not a string", version)
		}
	}
	if m.Items, err = decodeItems(r); err != nil {
		return nil, fmt.Errorf("state_dict_metadata: %w", err)
	}
	if m.Storage, err = decodeStorage(r); err != nil {
		return nil, fmt.Errorf("storage_data: %w", err)
	}
	return &m, nil
}

func decodeItems(r *pickle.Record) ([]Item, error) {
	pairs, err := dictAttr(r, "state_dict_metadata")
	if err != nil {
		return nil, err
	}
	items := make([]Item, 0, len(pairs))
	for _, p := range pairs {
		fqn, ok := p.Key.(string)
		if !ok {
			return nil, fmt.Errorf("a key is a %T, not a string", p.Key)
		}
		item, err := decodeItem(fqn, p.Value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", fqn, err)
		}
		items = append(items, item)
	}
	return items, nil
}

func decodeItem(fqn string, value any) (Item, error) {
	item := Item{FQN: fqn}
	if _, err := asRecord(value, "BytesStorageMetadata"); err == nil {
		return item, nil
	}
	r, err := asRecord(value, "TensorStorageMetadata")
	if err != nil {
		return item, err
	}
	if item.DType, err = decodeDType(r); err != nil {
		return item, fmt.Errorf("properties: %w", err)
	}
	if item.Size, err = sizeAttr(r, "size"); err != nil {
		return item, err
	}
	value, _ = r.Attr("chunks")
	chunks, ok := value.(*pickle.List)
	if !ok {
		return item, fmt.Errorf("chunks: is a %T, not a list", value)
	}
	item.Chunks = make([]Chunk, len(chunks.Items))
	for i, value := range chunks.Items {
		if item.Chunks[i], err = decodeChunk(value); err != nil {
			return item, fmt.Errorf("chunk %d: %w", i, err)
		}
	}
	return item, nil
}

// decodeDType finds the element type: the first element of the state of
// TensorProperties, which is a tuple, or the attribute of that name.
func decodeDType(tensor *pickle.Record) (string, error) {
	value, _ := tensor.Attr("properties")
	r, err := asRecord(value, "TensorProperties")
	if err != nil {
		return "", err
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

func decodeChunk(value any) (c Chunk, err error) {
	r, err := asRecord(value, "ChunkStorageMetadata")
	if err != nil {
		return c, err
	}
	if c.Offsets, err = sizeAttr(r, "offsets"); err != nil {
		return c, err
	}
	c.Sizes, err = sizeAttr(r, "sizes")
	return c, err
}

func decodeStorage(r *pickle.Record) ([]Entry, error) {
	pairs, err := dictAttr(r, "storage_data")
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, 0, len(pairs))
	for i, p := range pairs {
		e, err := decodeEntry(p)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, err)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

func decodeEntry(p pickle.Pair) (e Entry, err error) {
	index, err := asRecord(p.Key, "MetadataIndex")
	if err != nil {
		return e, fmt.Errorf("key: %w", err)
	}
	if e.Index.FQN, err = attr[string](index, "fqn"); err != nil {
		return e, fmt.Errorf("key: %w", err)
	}
	if offset, ok := index.Attr("offset"); ok && offset != nil {
		if e.Index.Offset, err = asSize(offset); err != nil {
			return e, fmt.Errorf("%s: offset: %w", e.Index.FQN, err)
		}
	}
	info, err := asRecord(p.Value, "_StorageInfo")
	if err != nil {
		return e, fmt.Errorf("%s: %w", e.Index, err)
	}
	if e.File, err = attr[string](info, "relative_path"); err == nil {
		if e.Offset, err = attr[int64](info, "offset"); err == nil {
			e.Length, err = attr[int64](info, "length")
		}
	}
	if err != nil {
		return e, fmt.Errorf("%s: %w", e.Index, err)
	}
	if e.Transforms, err = decodeTransforms(info); err != nil {
		return e, fmt.Errorf("%s: transform_descriptors: %w", e.Index, err)
	}
	return e, nil
}

func decodeTransforms(info *pickle.Record) ([]string, error) {
	value, ok := info.Attr("transform_descriptors")
	if !ok || value == nil {
		return nil, nil
	}
	items, err := asSequence(value)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(items))
	for i, item := range items {
		if names[i], ok = item.(string); !ok {
			return nil, fmt.Errorf("holds a %T, not a string", item)
		}
	}
	return names, nil
}

// asRecord gives an object of one of the metadata classes.
func asRecord(value any, class string) (*pickle.Record, error) {
	r, ok := value.(*pickle.Record)
	if !ok {
		return nil, fmt.Errorf("is a %T, not a %s", value, class)
	}
	modules := []string{metadataModule, filesystemModule, shardModule}
	if r.Class.Name != class || !slices.Contains(modules, r.Class.Module) {
		return nil, fmt.Errorf("is a %s, not a %s", r.Class, class)
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
		if v.Class == (pickle.Global{Module: "collections", Name: "OrderedDict"}) {
			return v.Pairs, nil
		}
	}
	if !ok {
		return nil, errors.New("missing")
	}
	return nil, fmt.Errorf("is a %T, not a dict", value)
}

func sizeAttr(r *pickle.Record, name string) ([]int64, error) {
	value, ok := r.Attr(name)
	if !ok {
		return nil, fmt.Errorf("%s: missing", name)
	}
	size, err := asSize(value)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return size, nil
}

// asSize gives the numbers of a torch.Size; never nil without an error.
func asSize(value any) ([]int64, error) {
	if r, ok := value.(*pickle.Record); ok {
		if r.Class != (pickle.Global{Module: "torch", Name: "Size"}) || len(r.Args) != 1 {
			return nil, fmt.Errorf("is a %s, not a torch.Size", r.Class)
		}
		value = r.Args[0]
	}
	items, err := asSequence(value)
	if err != nil {
		return nil, err
	}
	size := make([]int64, len(items))
	for i, item := range items {
		n, ok := item.(int64)
		if !ok || n < 0 {
			return nil, errors.New("holds something that is no number of elements")
		}
		size[i] = n
	}
	return size, nil
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

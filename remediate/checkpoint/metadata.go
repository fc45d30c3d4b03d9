package checkpoint

import (
	"fmt"
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

// MetadataLimits are the limits for a .metadata file. One written by PyTorch
// takes some 140 bytes and, decoded, some 300 bytes of memory for each chunk
// that a rank stores: three million fit, as 1,000 ranks have that share 1,000
// tensors with two optimiser states each.
var MetadataLimits = pickle.Limits{Bytes: 512 << 20, Memory: 1 << 30, StringBytes: 1 << 20, Depth: 64}

// DecodeMetadata decodes the contents of a .metadata file. It executes nothing,
// and ignores attributes that it does not know.
func DecodeMetadata(data []byte) (*Metadata, error) {
	files := make(fileNames)
	reader := pickle.Reader{Limits: MetadataLimits, Allow: allow, Convert: files.convert}
	value, err := reader.Decode(data)
	if err != nil {
		return nil, err
	}
	r, err := asRecord(value, metadataClass)
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
		item, ok := p.Value.(Item)
		if !ok {
			if _, err := asRecord(p.Value, bytesClass); err != nil {
				return nil, fmt.Errorf("%s: %w", fqn, err)
			}
		}
		item.FQN = fqn
		items = append(items, item)
	}
	return items, nil
}

func decodeStorage(r *pickle.Record) ([]Entry, error) {
	pairs, err := dictAttr(r, "storage_data")
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, 0, len(pairs))
	for i, p := range pairs {
		index, ok := p.Key.(Index)
		if !ok {
			return nil, fmt.Errorf("entry %d: the key is a %T, not a MetadataIndex", i, p.Key)
		}
		e, ok := p.Value.(Entry)
		if !ok {
			return nil, fmt.Errorf("entry %d: %s: is a %T, not a _StorageInfo", i, index, p.Value)
		}
		e.Index = index
		entries = append(entries, e)
	}
	return entries, nil
}

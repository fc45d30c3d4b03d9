package checkpoint

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
)

// shard is a file that the metadata refers to, and how long it has to be.
type shard struct {
	File string
	Need int64 // bytes
}

// layout gives the shards of a checkpoint by name, after checking that the
// storage table makes sense by itself and holds all that the state dict has.
func layout(m *Metadata) ([]shard, error) {
	if len(m.Storage) == 0 {
		return nil, errors.New("storage_data is empty")
	}
	known := make(map[string]bool, len(m.Storage))
	files := make(map[string][]Entry)
	for _, e := range m.Storage {
		if err := checkEntry(e); err != nil {
			return nil, fmt.Errorf("storage_data: %s: %w", e.Index, err)
		}
		if known[e.Index.String()] {
			return nil, fmt.Errorf("storage_data: %s is there twice", e.Index)
		}
		known[e.Index.String()] = true
		files[e.File] = append(files[e.File], e)
	}
	if err := checkStored(m.Items, known); err != nil {
		return nil, err
	}
	shards := make([]shard, 0, len(files))
	for _, file := range slices.Sorted(maps.Keys(files)) {
		need, err := extent(files[file])
		if err != nil {
			return nil, fmt.Errorf("storage_data: %q: %w", file, err)
		}
		shards = append(shards, shard{File: file, Need: need})
	}
	return shards, nil
}

// maxFileName is the longest file name that Linux file systems have, in bytes.
const maxFileName = 255

// checkEntry refuses a file outside the checkpoint and a range that no file can
// have.
func checkEntry(e Entry) error {
	switch {
	case len(e.File) > maxFileName:
		return fmt.Errorf("a file name of %d bytes", len(e.File))
	case !filepath.IsLocal(e.File) || filepath.Base(e.File) != e.File || e.File == ".":
		return fmt.Errorf("file %q is not a plain name inside the checkpoint", e.File)
	case e.Offset < 0:
		return fmt.Errorf("offset %d is negative", e.Offset)
	case e.Length < 0:
		return fmt.Errorf("length %d is negative", e.Length)
	case e.Offset > math.MaxInt64-e.Length:
		return fmt.Errorf("offset %d and length %d exceed any file", e.Offset, e.Length)
	}
	return nil
}

// checkStored refuses a state dict with a part that is stored nowhere.
func checkStored(items []Item, known map[string]bool) error {
	for _, item := range items {
		if !item.Tensor() {
			if index := (Index{FQN: item.FQN}); !known[index.String()] {
				return fmt.Errorf("%s is in state_dict_metadata and not in storage_data", index)
			}
		}
		for _, c := range item.Chunks {
			if index := (Index{FQN: item.FQN, Offset: c.Offsets}); !known[index.String()] {
				return fmt.Errorf("%s is in state_dict_metadata and not in storage_data", index)
			}
		}
	}
	return nil
}

// extent gives how long a file with these entries has to be, and refuses
// entries that overlap.
func extent(entries []Entry) (int64, error) {
	slices.SortFunc(entries, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Length, b.Length))
	})
	var end int64
	for i, e := range entries {
		if e.Offset < end && e.Length > 0 {
			return 0, fmt.Errorf("%s and %s overlap", entries[i-1].Index, e.Index)
		}
		end = max(end, e.Offset+e.Length)
	}
	return end, nil
}

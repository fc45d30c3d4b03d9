// Package dcp writes and reads PyTorch distributed checkpoints for the
// simulated trainer: real ones, which torch.distributed.checkpoint can load.
// It reads back only what it wrote itself, and it shares no code with the
// verifier of the product, so that each is evidence about the other.
package dcp

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// Chunk is the part of a float32 tensor that one rank holds.
type Chunk struct {
	FQN string // fully qualified name of the tensor
	// Size is the shape of the whole tensor, Offset the place and Shape the shape
	// of the part, in elements.
	Size, Offset, Shape []int
	Elements            []float32
}

// Object is a dict of integers, such as the step.
type Object struct {
	FQN    string
	Fields map[string]int64
}

// Shard is what one rank saves.
type Shard struct {
	Chunks  []Chunk
	Objects []Object
}

// Tear makes a save go wrong as it does when a node dies with the last pages of
// its shard not yet on the file server: the rank had reported its shard as
// written, so the coordinator committed.
type Tear struct {
	Rank int
	// Missing loses the whole shard instead of its second half.
	Missing bool
}

const (
	metadataFile    = ".metadata"
	metadataTmpFile = ".metadata.tmp"
)

// stored is where an item went.
type stored struct {
	index  pyObject
	info   pyObject
	object *Object // nil for a chunk
	chunk  *Chunk
}

// Save writes a checkpoint to dir: every rank its shard, at the same time, and
// then the coordinator .metadata. A checkpoint that is there already loses its
// .metadata first. Tear may be nil.
func Save(dir string, shards []Shard, tear *Tear) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make checkpoint folder: %w", err)
	}
	if err := os.Remove(filepath.Join(dir, metadataFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("withdraw old checkpoint: %w", err)
	}
	items := make([][]stored, len(shards))
	errs := make([]error, len(shards))
	var ranks sync.WaitGroup
	for rank, shard := range shards {
		ranks.Go(func() {
			name := fmt.Sprintf("__%d_0.distcp", rank)
			var content []byte
			if content, items[rank], errs[rank] = encode(name, shard); errs[rank] != nil {
				return
			}
			if tear != nil && tear.Rank == rank {
				content = tear.cut(content)
			}
			if content != nil {
				errs[rank] = writeSynced(filepath.Join(dir, name), content)
			}
		})
	}
	ranks.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("write shards: %w", err)
	}
	return commit(dir, slices.Concat(items...))
}

func (t *Tear) cut(content []byte) []byte {
	if t.Missing {
		return nil
	}
	return content[:len(content)/2]
}

// encode gives the content of a shard and where each item is in it.
func encode(name string, shard Shard) ([]byte, []stored, error) {
	var content []byte
	var items []stored
	add := func(fqn string, offset any, archived []byte) stored {
		s := stored{
			index: pyObject{indexClass, pyDict{{"fqn", fqn}, {"index", nil}, {"offset", offset}}},
			info: pyObject{storageInfoClass, pyDict{
				{"relative_path", name}, {"offset", int64(len(content))}, {"length", int64(len(archived))},
			}},
		}
		content = append(content, archived...)
		return s
	}
	for i := range shard.Objects {
		o := &shard.Objects[i]
		archived, err := archiveObject(o.python())
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", o.FQN, err)
		}
		s := add(o.FQN, nil, archived)
		s.object = o
		items = append(items, s)
	}
	for i := range shard.Chunks {
		c := &shard.Chunks[i]
		archived, err := archiveTensor(c.Shape, c.Elements)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", c.FQN, err)
		}
		s := add(c.FQN, pySize(c.Offset), archived)
		s.chunk = c
		items = append(items, s)
	}
	return content, items, nil
}

func (o *Object) python() pyDict {
	d := make(pyDict, 0, len(o.Fields))
	for _, name := range sortedKeys(o.Fields) {
		d = append(d, pyPair{name, o.Fields[name]})
	}
	return d
}

// commit writes .metadata under another name and renames it into place.
func commit(dir string, items []stored) error {
	tmp := filepath.Join(dir, metadataTmpFile)
	if err := writeSynced(tmp, pickle(metadata(items))); err != nil {
		return fmt.Errorf("write checkpoint metadata: %w", err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, metadataFile)); err != nil {
		return fmt.Errorf("commit checkpoint: %w", err)
	}
	return syncFolder(dir)
}

// metadata is the Metadata object that describes the items.
func metadata(items []stored) pyObject {
	chunks := make(map[string]pyList)
	for _, s := range items {
		if c := s.chunk; c != nil {
			chunks[c.FQN] = append(chunks[c.FQN], pyObject{chunkClass, pyDict{{"offsets", pySize(c.Offset)}, {"sizes", pySize(c.Shape)}}})
		}
	}
	var stateDict, planner, storage pyDict
	for _, s := range items {
		storage = append(storage, pyPair{s.index, s.info})
		fqn, described := s.describe(chunks)
		if described != nil {
			stateDict = append(stateDict, pyPair{fqn, described})
			planner = append(planner, pyPair{fqn, pyTuple{fqn}})
		}
	}
	return pyObject{metadataClass, pyDict{
		{"state_dict_metadata", stateDict},
		{"planner_data", planner},
		{"storage_data", storage},
		{"storage_meta", pyObject{storageMetaClass, pyDict{{"checkpoint_id", nil}, {"save_id", nil}, {"load_id", nil}, {"modules", pyList{}}}}},
		{"version", nil},
	}}
}

// describe gives the entry of the state dict for an item; nothing for the
// second and later chunks of a tensor.
func (s *stored) describe(chunks map[string]pyList) (fqn string, described any) {
	if s.object != nil {
		return s.object.FQN, pyObject{bytesClass, pyDict{}}
	}
	c := s.chunk
	if chunks[c.FQN] == nil {
		return c.FQN, nil
	}
	properties := pyObject{propertiesClass, pyTuple{
		float32DType, pyCall{getLayout, pyTuple{"torch.strided"}}, false, pyCall{memoryFormat, pyTuple{int64(0)}}, false,
	}}
	described = pyObject{tensorClass, pyDict{{"properties", properties}, {"size", pySize(c.Size)}, {"chunks", chunks[c.FQN]}}}
	delete(chunks, c.FQN)
	return c.FQN, described
}

func writeSynced(path string, content []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

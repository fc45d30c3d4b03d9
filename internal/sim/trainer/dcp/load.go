package dcp

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// Checkpoint is a checkpoint in memory.
type Checkpoint struct {
	Tensors map[string]*Tensor
	Objects map[string]map[string]int64
}

// Tensor is a whole float32 tensor.
type Tensor struct {
	Size     []int
	Elements []float32
}

// Load reads a checkpoint that Save wrote. A torn one is an error.
func Load(dir string) (*Checkpoint, error) {
	content, err := os.ReadFile(filepath.Join(dir, metadataFile))
	if err != nil {
		return nil, fmt.Errorf("load checkpoint: %w", err)
	}
	object, err := unpickle(content)
	if err != nil {
		return nil, fmt.Errorf("load checkpoint %s: %w", dir, err)
	}
	c := &Checkpoint{Tensors: make(map[string]*Tensor), Objects: make(map[string]map[string]int64)}
	if err := c.read(dir, object); err != nil {
		return nil, fmt.Errorf("load checkpoint %s: %w", dir, err)
	}
	return c, nil
}

// read fills the checkpoint by its Metadata object. The shape of that object is
// taken for granted, as it is Save's own.
func (c *Checkpoint) read(dir string, object any) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("metadata of another writer: %v", r)
		}
	}()
	root := object.(pyObject).state.(pyDict)
	shapes := make(map[string]map[string][]int) // of chunks, by name and offset
	for _, p := range root.get("state_dict_metadata").(pyDict) {
		fqn, item := p.key.(string), p.value.(pyObject)
		if item.class == bytesClass {
			continue
		}
		state := item.state.(pyDict)
		size := ints(state.get("size"))
		c.Tensors[fqn] = &Tensor{Size: size, Elements: make([]float32, product(size))}
		shapes[fqn] = make(map[string][]int)
		for _, chunk := range state.get("chunks").(pyList) {
			chunk := chunk.(pyObject).state.(pyDict)
			shapes[fqn][fmt.Sprint(ints(chunk.get("offsets")))] = ints(chunk.get("sizes"))
		}
	}
	for _, p := range root.get("storage_data").(pyDict) {
		index, info := p.key.(pyObject).state.(pyDict), p.value.(pyObject).state.(pyDict)
		fqn := index.get("fqn").(string)
		archived, err := readRange(filepath.Join(dir, info.get("relative_path").(string)), info.get("offset").(int64), info.get("length").(int64))
		if err != nil {
			return fmt.Errorf("%s: %w", fqn, err)
		}
		if index.get("offset") == nil {
			err = c.addObject(fqn, archived)
		} else {
			offset := ints(index.get("offset"))
			err = c.Tensors[fqn].add(offset, shapes[fqn][fmt.Sprint(offset)], archived)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", fqn, err)
		}
	}
	return nil
}

func (c *Checkpoint) addObject(fqn string, archived []byte) error {
	content, err := readMember(archived, objectMember)
	if err != nil {
		return err
	}
	object, err := unpickle(content)
	if err != nil {
		return err
	}
	fields := make(map[string]int64)
	for _, p := range object.(pyDict) {
		fields[p.key.(string)] = p.value.(int64)
	}
	c.Objects[fqn] = fields
	return nil
}

// add puts a chunk in its place. Chunks span whole rows of the first dimension.
func (t *Tensor) add(offset, shape []int, archived []byte) error {
	chunk, err := elements(archived)
	if err != nil {
		return err
	}
	if len(chunk) != product(shape) {
		return fmt.Errorf("chunk has %d elements, not %d", len(chunk), product(shape))
	}
	if !slices.Equal(shape[1:], t.Size[1:]) {
		return fmt.Errorf("chunk %v of tensor %v does not span whole rows", shape, t.Size)
	}
	copy(t.Elements[offset[0]*product(t.Size[1:]):], chunk)
	return nil
}

func readRange(path string, offset, length int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content := make([]byte, length)
	if _, err := f.ReadAt(content, offset); err != nil {
		return nil, fmt.Errorf("read %d bytes at %d of %s: %w", length, offset, path, err)
	}
	return content, nil
}

func (d pyDict) get(name string) any {
	for _, p := range d {
		if p.key == name {
			return p.value
		}
	}
	panic(name + " missing")
}

// ints gives the numbers of a torch.Size.
func ints(object any) []int {
	tuple := object.(pyCall).args[0].(pyTuple)
	numbers := make([]int, len(tuple))
	for i, n := range tuple {
		numbers[i] = int(n.(int64))
	}
	return numbers
}

func product(shape []int) int {
	n := 1
	for _, s := range shape {
		n *= s
	}
	return n
}

func sortedKeys(m map[string]int64) []string { return slices.Sorted(maps.Keys(m)) }

package dcp

import (
	"encoding/json"
	"errors"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// shards of two ranks: a tensor split over both, one that rank 0 saves, and the
// step.
func shards() []Shard {
	experts := []int{4, 1, 2}
	return []Shard{
		{
			Chunks: []Chunk{
				{FQN: "router", Size: []int{3}, Offset: []int{0}, Shape: []int{3}, Elements: []float32{1, -2.5, math.SmallestNonzeroFloat32}},
				{FQN: "experts", Size: experts, Offset: []int{0, 0, 0}, Shape: []int{2, 1, 2}, Elements: []float32{1, 2, 3, 4}},
			},
			Objects: []Object{{FQN: "train_state", Fields: map[string]int64{"step": 20, "tokens": 1 << 40}}},
		},
		{Chunks: []Chunk{{FQN: "experts", Size: experts, Offset: []int{2, 0, 0}, Shape: []int{2, 1, 2}, Elements: []float32{5, 6, 7, 8}}}},
	}
}

func save(t *testing.T, tear *Tear) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "step-20")
	if err := Save(dir, shards(), tear); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestSaveAndLoad(t *testing.T) {
	got, err := Load(save(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	want := &Checkpoint{
		Tensors: map[string]*Tensor{
			"router":  {Size: []int{3}, Elements: []float32{1, -2.5, math.SmallestNonzeroFloat32}},
			"experts": {Size: []int{4, 1, 2}, Elements: []float32{1, 2, 3, 4, 5, 6, 7, 8}},
		},
		Objects: map[string]map[string]int64{"train_state": {"step": 20, "tokens": 1 << 40}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Load after Save (-want +got):\n%s", diff)
	}
}

// TestCPythonReads has CPython's own pickle and zipfile read what Save wrote.
func TestCPythonReads(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("needs python3 to read the checkpoint")
	}
	command := exec.CommandContext(t.Context(), python, "testdata/read_checkpoint.py", save(t, nil))
	command.Stderr = os.Stderr
	out, err := command.Output()
	if err != nil {
		t.Fatalf("read_checkpoint.py: %v", err)
	}
	type chunk struct {
		Shape    []int     `json:"shape"`
		Elements []float32 `json:"elements"`
	}
	type tensor struct {
		Size   []int            `json:"size"`
		DType  string           `json:"dtype"`
		Sizes  map[string][]int `json:"sizes"`
		Chunks map[string]chunk `json:"chunks"`
	}
	var got, want struct {
		Tensors map[string]tensor           `json:"tensors"`
		Objects map[string]map[string]int64 `json:"objects"`
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("read_checkpoint.py printed %s: %v", out, err)
	}
	want.Objects = map[string]map[string]int64{"train_state": {"step": 20, "tokens": 1 << 40}}
	want.Tensors = map[string]tensor{
		"router": {Size: []int{3}, DType: "float32", Sizes: map[string][]int{"[0]": {3}},
			Chunks: map[string]chunk{"[0]": {[]int{3}, []float32{1, -2.5, math.SmallestNonzeroFloat32}}}},
		"experts": {Size: []int{4, 1, 2}, DType: "float32", Sizes: map[string][]int{"[0, 0, 0]": {2, 1, 2}, "[2, 0, 0]": {2, 1, 2}},
			Chunks: map[string]chunk{
				"[0, 0, 0]": {[]int{2, 1, 2}, []float32{1, 2, 3, 4}},
				"[2, 0, 0]": {[]int{2, 1, 2}, []float32{5, 6, 7, 8}},
			}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("CPython read (-want +got):\n%s", diff)
	}
}

func TestTear(t *testing.T) {
	whole, err := os.Stat(filepath.Join(save(t, nil), "__1_0.distcp"))
	if err != nil {
		t.Fatal(err)
	}
	dir := save(t, &Tear{Rank: 1})
	if info, err := os.Stat(filepath.Join(dir, "__1_0.distcp")); err != nil || info.Size() != whole.Size()/2 {
		t.Errorf("torn shard = %v, %v, want half of %d bytes", info, err, whole.Size())
	}
	if _, err := Load(dir); err == nil {
		t.Error("Load of a checkpoint with half a shard = no error, want one")
	}
	dir = save(t, &Tear{Rank: 1, Missing: true})
	if _, err := Load(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Load of a checkpoint without a shard: error = %v, want %v", err, fs.ErrNotExist)
	}
}

// TestSaveWithdraws has a save over a checkpoint fail before it commits: the
// old .metadata must not stand beside the new shards.
func TestSaveWithdraws(t *testing.T) {
	dir := save(t, nil)
	if err := os.Mkdir(filepath.Join(dir, metadataTmpFile), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Save(dir, shards(), nil); err == nil {
		t.Fatal("Save = no error, want one: .metadata.tmp cannot be written")
	}
	if _, err := os.Stat(filepath.Join(dir, metadataFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf(".metadata after a save that was cut: %v, want %v", err, fs.ErrNotExist)
	}
}

func TestLoadRefuses(t *testing.T) {
	good, err := os.ReadFile(filepath.Join(save(t, nil), metadataFile))
	if err != nil {
		t.Fatal(err)
	}
	for n := range good {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, metadataFile), good[:n], 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(dir); err == nil {
			t.Fatalf("Load with the first %d of %d bytes of .metadata = no error, want one", n, len(good))
		}
	}
}

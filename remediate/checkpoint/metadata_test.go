package checkpoint

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const experts = "model.layers.0.moe.experts.w1"

// wholeMetadata is what whole() of make_fixtures.py says.
func wholeMetadata() *Metadata {
	return &Metadata{
		Version: "1.0.0",
		Items: []Item{
			{FQN: experts, DType: "bfloat16", Size: []int64{4, 4, 4}, Chunks: []Chunk{
				{Offsets: []int64{0, 0, 0}, Sizes: []int64{2, 4, 4}},
				{Offsets: []int64{2, 0, 0}, Sizes: []int64{2, 4, 4}},
			}},
			{FQN: "train_state"},
		},
		Storage: []Entry{
			{Index: Index{FQN: experts, Offset: []int64{0, 0, 0}}, File: "__0_0.distcp", Length: 64},
			{Index: Index{FQN: "train_state"}, File: "__0_0.distcp", Offset: 64, Length: 36},
			{Index: Index{FQN: experts, Offset: []int64{2, 0, 0}}, File: "__1_0.distcp", Length: 64},
		},
	}
}

func TestDecodeMetadata(t *testing.T) {
	withoutVersion, transformed := wholeMetadata(), wholeMetadata()
	withoutVersion.Version = ""
	transformed.Storage[0].Transforms = []string{"zstd", "encrypt"}
	tests := []struct {
		fixture string
		want    *Metadata
	}{
		{"whole-protocol-2", wholeMetadata()},
		{"whole-protocol-3", wholeMetadata()},
		{"whole-protocol-4", wholeMetadata()},
		{"whole-protocol-5", wholeMetadata()},
		{"enum-by-name", wholeMetadata()},
		{"ordered-dicts", wholeMetadata()},
		{"sets", wholeMetadata()},
		{"shared", wholeMetadata()},
		{"without-later-fields", withoutVersion},
		{"transforms", transformed},
	}
	for _, test := range tests {
		got, err := DecodeMetadata(fixture(t, test.fixture))
		if err != nil {
			t.Errorf("DecodeMetadata(%s): %v", test.fixture, err)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("DecodeMetadata(%s) (-want +got):\n%s", test.fixture, diff)
		}
	}
}

func TestDecodeMetadataRefuses(t *testing.T) {
	tests := []struct{ fixture, want string }{
		{"hostile-system", `imports "posix.system", which is not allowed`},
		{"hostile-eval", `imports "builtins.eval", which is not allowed`},
		{"hostile-getattr", `imports "builtins.__import__", which is not allowed`},
		{"cyclic", "contains itself"},
		{"nested-deep", "nested deeper than 64"},
		{"string-huge", "a string of 4611686018427387904 bytes"},
		{"protocol-0", "not a pickle of protocol 2 to 5"},
		{"not-metadata", "is a *pickle.Dict, not a Metadata"},
		{"storage-none", "storage_data: is a <nil>, not a dict"},
		{"offset-float", "offset: is a float64, not a int64"},
		{"offset-beyond-int64", "an integer of 9 bytes does not fit 64 bits"},
	}
	for _, test := range tests {
		_, err := DecodeMetadata(fixture(t, test.fixture))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("DecodeMetadata(%s) error = %v, want one with %q", test.fixture, err, test.want)
		}
	}
}

// TestDecodeMetadataTruncated cuts sound metadata at every byte.
func TestDecodeMetadataTruncated(t *testing.T) {
	for _, name := range []string{"whole-protocol-2", "whole-protocol-5", "sets"} {
		content := fixture(t, name)
		for n := range content {
			if _, err := DecodeMetadata(content[:n]); err == nil {
				t.Errorf("DecodeMetadata(%s, first %d of %d bytes) = no error, want one", name, n, len(content))
			}
		}
	}
}

func FuzzDecodeMetadata(f *testing.F) {
	paths, err := filepath.Glob("testdata/*.metadata")
	if err != nil || len(paths) == 0 {
		f.Fatalf("no fixtures to start from: %v", err)
	}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		m, err := DecodeMetadata(content)
		if err != nil {
			return
		}
		shards, err := layout(m)
		if err != nil {
			return
		}
		for _, s := range shards {
			if s.Need < 0 || strings.ContainsRune(s.File, '/') {
				t.Errorf("layout accepted shard %+v", s)
			}
		}
	})
}

// BenchmarkDecodeMetadata decodes whole metadata with 3 entries.
func BenchmarkDecodeMetadata(b *testing.B) {
	content := fixture(b, "whole-protocol-4")
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		if _, err := DecodeMetadata(content); err != nil {
			b.Fatal(err)
		}
	}
}

package checkpoint

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// written is when the checkpoints of these tests were committed.
var written = time.Date(2026, 11, 3, 12, 0, 0, 0, time.UTC)

// wholeShards are the shards, in bytes, that the fixtures made from whole() of
// make_fixtures.py need at least.
var wholeShards = map[string]int64{"__0_0.distcp": 100, "__1_0.distcp": 64}

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", name+".metadata"))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// lay writes a checkpoint: .metadata from a fixture, if one is named, and
// shards of the given sizes, all modified at the time written.
func lay(t testing.TB, dir, metadata string, shards map[string]int64) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, size := range shards {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
		stamp(t, filepath.Join(dir, name), written)
	}
	if metadata == "" {
		return
	}
	path := filepath.Join(dir, metadataFile)
	if err := os.WriteFile(path, fixture(t, metadata), 0o644); err != nil {
		t.Fatal(err)
	}
	stamp(t, path, written)
}

func stamp(t testing.TB, path string, modified time.Time) {
	t.Helper()
	if err := os.Chtimes(path, modified, modified); err != nil {
		t.Fatal(err)
	}
}

// TestFixturesAreCPythons makes the fixtures again and compares what they say:
// the bytes may differ between versions of CPython.
func TestFixturesAreCPythons(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("needs python3 to make the fixtures again")
	}
	fresh := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), python, "testdata/make_fixtures.py", fresh).CombinedOutput(); err != nil {
		t.Fatalf("make_fixtures.py: %v\n%s", err, out)
	}
	if diff := cmp.Diff(fixtureNames(t, "testdata"), fixtureNames(t, fresh)); diff != "" {
		t.Errorf("fixtures (-committed +made):\n%s", diff)
	}
	for _, name := range fixtureNames(t, "testdata") {
		content, err := os.ReadFile(filepath.Join(fresh, name))
		if err != nil {
			t.Fatal(err)
		}
		committed, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		want, wantErr := DecodeMetadata(committed)
		got, gotErr := DecodeMetadata(content)
		if diff := cmp.Diff(want, got); diff != "" || (wantErr == nil) != (gotErr == nil) {
			t.Errorf("%s: errors %v and %v (-committed +made):\n%s", name, wantErr, gotErr, diff)
		}
	}
}

func fixtureNames(t *testing.T, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.metadata"))
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, len(paths))
	for i, path := range paths {
		names[i] = filepath.Base(path)
	}
	return names
}

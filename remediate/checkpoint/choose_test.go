package checkpoint

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/evenkeel/evenkeel/internal/golden"
	"github.com/evenkeel/evenkeel/remediate/incident"
	"github.com/google/go-cmp/cmp"
)

// lockForGood keeps the goroutine's thread from being used by others, also
// after the goroutine ends.
func lockForGood() { runtime.LockOSThread() }

func store(t *testing.T, roots ...string) *Store {
	t.Helper()
	s, err := New(Options{Roots: roots})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// layJob lays the checkpoints of a job: step 9 whole, 10 whole, 100 torn, 110
// malformed, 120 in progress, and things that are no checkpoints.
func layJob(t *testing.T, dir string) {
	t.Helper()
	lay(t, filepath.Join(dir, "step-9"), "whole-protocol-2", wholeShards)
	lay(t, filepath.Join(dir, "step-10"), "whole-protocol-4", wholeShards)
	lay(t, filepath.Join(dir, "step-100"), "whole-protocol-4", map[string]int64{"__0_0.distcp": 100, "__1_0.distcp": 63})
	lay(t, filepath.Join(dir, "step-110"), "hostile-system", wholeShards)
	lay(t, filepath.Join(dir, "step-120"), "", wholeShards)
	lay(t, filepath.Join(dir, "step-130.tmp"), "whole-protocol-4", wholeShards)
	lay(t, dir, "", map[string]int64{"step-140": 10, "step-x": 1})
}

func TestChoose(t *testing.T) {
	dir := t.TempDir()
	layJob(t, dir)
	got, err := store(t, dir).Choose(t.Context(), dir)
	want := incident.Choice{
		Path: filepath.Join(dir, "step-10"),
		Step: 10,
		Refused: []incident.Refusal{
			{Path: filepath.Join(dir, "step-120"), Reason: "in_progress: no .metadata, 2 shards: being written, or given up"},
			{Path: filepath.Join(dir, "step-110"), Reason: `malformed: .metadata: pickle byte 563: imports "posix.system", which is not allowed`},
			{Path: filepath.Join(dir, "step-100"), Reason: `torn: shard "__1_0.distcp" has 63 bytes, 64 needed`},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("Choose: %v (-want +got):\n%s", err, diff)
	}
}

func TestChooseNone(t *testing.T) {
	dir := t.TempDir()
	got, err := store(t, dir).Choose(t.Context(), dir)
	if diff := cmp.Diff(incident.Choice{}, got); diff != "" || err != nil {
		t.Errorf("Choose in an empty folder: %v (-want +got):\n%s", err, diff)
	}
}

// TestChooseUnknown has checkpoints that cannot be read: newer than a whole one
// that is a reason to fail, older it is not looked at.
func TestChooseUnknown(t *testing.T) {
	for step, wantErr := range map[string]string{"step-11": "read checkpoint", "step-8": ""} {
		dir := t.TempDir()
		lay(t, filepath.Join(dir, "step-10"), "whole-protocol-4", wholeShards)
		lay(t, filepath.Join(dir, step), "whole-protocol-4", wholeShards)
		if err := os.Chmod(filepath.Join(dir, step), 0); err != nil {
			t.Fatal(err)
		}
		asNobody(t, filepath.Join(dir, step), func() {
			got, err := store(t, dir).choose(t.Context(), dir)
			switch {
			case wantErr == "" && (err != nil || got.Step != 10):
				t.Errorf("Choose with %s unreadable = %+v, %v, want step 10", step, got, err)
			case wantErr != "" && (err == nil || !strings.Contains(err.Error(), wantErr)):
				t.Errorf("Choose with %s unreadable = %+v, %v, want an error with %q", step, got, err, wantErr)
			}
		})
	}
}

func TestChooseRefusesFolders(t *testing.T) {
	base := t.TempDir()
	root, outside := filepath.Join(base, "root"), filepath.Join(base, "outside")
	layJob(t, filepath.Join(root, "job"))
	layJob(t, outside)
	if err := os.Symlink(outside, filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(outside, "step-10"), filepath.Join(root, "job", "step-200")); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, dir, want string }{
		{"below the root", filepath.Join(root, "job"), ""},
		{"outside", outside, "is outside the allowed roots"},
		{"outside by dots", root + "/../outside", "is outside the allowed roots"},
		{"named like the root", root + "-2", "is outside the allowed roots"},
		{"outside by a link", filepath.Join(root, "link"), "path escapes from parent"},
		{"relative", "job", "is not an absolute path"},
		{"missing", filepath.Join(root, "missing"), "no such file or directory"},
		{"a file", filepath.Join(root, "job", "step-140"), "not a directory"},
	}
	for _, test := range tests {
		choice, err := store(t, root).Choose(t.Context(), test.dir)
		switch {
		case test.want == "" && (err != nil || choice.Step != 10 || len(choice.Refused) != 4):
			t.Errorf("%s: Choose = %+v, %v, want step 10 and 4 refused", test.name, choice, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s: Choose = %+v, %v, want an error with %q", test.name, choice, err, test.want)
		}
	}
}

func TestChooseHanging(t *testing.T) {
	dir := t.TempDir()
	layJob(t, dir)
	s := store(t, dir)
	s.begin(dir)
	if _, err := s.Choose(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "has not returned yet") {
		t.Errorf("Choose while a look at the folder hangs: error = %v, want one", err)
	}
	s.end(dir)
	if _, err := s.Choose(t.Context(), dir); err != nil {
		t.Errorf("Choose after it returned: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Choose(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("Choose after its context ended: error = %v, want %v", err, context.Canceled)
	}
}

func TestNewRefusesRelativeRoot(t *testing.T) {
	if _, err := New(Options{Roots: []string{"/checkpoints", "checkpoints"}}); err == nil || !strings.Contains(err.Error(), "roots[1]") {
		t.Errorf("New with a relative root: error = %v, want one that names roots[1]", err)
	}
}

func TestListText(t *testing.T) {
	dir := t.TempDir()
	layJob(t, dir)
	l, err := List(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := l.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, r := range l.Checkpoints[len(l.Checkpoints)-3:] {
		text.WriteByte('\n')
		if err := r.WriteText(&text); err != nil {
			t.Fatal(err)
		}
	}
	golden.Check(t, "testdata/list.golden", bytes.ReplaceAll(text.Bytes(), []byte(dir), []byte("/checkpoints")))
}

func TestListJSON(t *testing.T) {
	dir := t.TempDir()
	layJob(t, dir)
	l, err := List(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	content, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "testdata/list.json.golden", append(bytes.ReplaceAll(content, []byte(dir), []byte("/checkpoints")), '\n'))
}

package checkpoint

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestVerify(t *testing.T) {
	symlink := func(target, name string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, name)
			if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			if err := os.Symlink(target, path); err != nil {
				t.Fatal(err)
			}
		}
	}
	modified := func(after time.Duration) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			stamp(t, filepath.Join(dir, "__1_0.distcp"), written.Add(after))
		}
	}
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, make([]byte, 1000), 0o644); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name     string
		metadata string
		shards   map[string]int64
		change   func(t *testing.T, dir string)
		want     State
		reason   string // part of it
	}{
		{name: "shards longer than needed", metadata: "whole-protocol-2", shards: map[string]int64{"__0_0.distcp": 200, "__1_0.distcp": 200}, want: Whole},
		{name: "shards just long enough", metadata: "whole-protocol-2", shards: wholeShards, want: Whole},
		{name: "one byte short", metadata: "whole-protocol-2", shards: map[string]int64{"__0_0.distcp": 99, "__1_0.distcp": 64},
			want: Torn, reason: `shard "__0_0.distcp" has 99 bytes, 100 needed`},
		{name: "shard missing", metadata: "whole-protocol-2", shards: map[string]int64{"__0_0.distcp": 100},
			want: Torn, reason: `shard "__1_0.distcp" is missing`},
		{name: "shard is a folder", metadata: "whole-protocol-2", shards: map[string]int64{"__0_0.distcp": 100},
			change: func(t *testing.T, dir string) {
				if err := os.Mkdir(filepath.Join(dir, "__1_0.distcp"), 0o755); err != nil {
					t.Fatal(err)
				}
			},
			want: Torn, reason: `shard "__1_0.distcp" is not a regular file`},
		{name: "shard links out", metadata: "whole-protocol-2", shards: wholeShards, change: symlink(outside, "__1_0.distcp"),
			want: Torn, reason: `shard "__1_0.distcp" leads out of the checkpoint`},
		{name: "shard links within", metadata: "whole-protocol-2", shards: map[string]int64{"__0_0.distcp": 100, "blob": 64},
			change: symlink("blob", "__1_0.distcp"), want: Whole},
		{name: "written at the same time as its metadata", metadata: "whole-protocol-2", shards: wholeShards, change: modified(0), want: Whole},
		{name: "later by the skew allowed", metadata: "whole-protocol-2", shards: wholeShards, change: modified(clockSkew), want: Whole},
		{name: "later by more than that", metadata: "whole-protocol-2", shards: wholeShards, change: modified(clockSkew + time.Millisecond),
			want: Torn, reason: `shard "__1_0.distcp" was written 5.001s after .metadata: overwritten in place (after a copy that kept no times, touch .metadata)`},

		{name: "no metadata yet", shards: wholeShards, want: InProgress, reason: "no .metadata, 2 shards"},
		{name: "nothing yet", want: InProgress, reason: "no .metadata, 0 shards"},
		{name: "metadata about to be renamed", shards: map[string]int64{"__0_0.distcp": 100, metadataTmpFile: 12}, want: InProgress, reason: "no .metadata, 1 shards"},

		{name: "ranges touch", metadata: "touching", shards: wholeShards, want: Whole},
		{name: "ranges overlap", metadata: "overlapping", shards: wholeShards, want: Malformed, reason: experts + "[0 0 0] and train_state overlap"},
		{name: "negative offset", metadata: "offset-negative", shards: wholeShards, want: Malformed, reason: "offset -1 is negative"},
		{name: "negative length", metadata: "length-negative", shards: wholeShards, want: Malformed, reason: "length -1 is negative"},
		{name: "range ends beyond any file", metadata: "end-beyond-int64", shards: wholeShards, want: Malformed, reason: "exceed any file"},
		{name: "range ends at the longest file", metadata: "end-at-int64", shards: wholeShards, want: Torn, reason: "has 100 bytes, 9223372036854775807 needed"},
		{name: "file above", metadata: "path-above", shards: wholeShards, want: Malformed, reason: `file "../__0_0.distcp" is not a plain name`},
		{name: "file at an absolute path", metadata: "path-absolute", shards: wholeShards, want: Malformed, reason: `file "/etc/passwd" is not a plain name`},
		{name: "file without a name", metadata: "path-empty", shards: wholeShards, want: Malformed, reason: `file "" is not a plain name`},
		{name: "file with a name that is too long", metadata: "path-long", shards: wholeShards, want: Malformed, reason: "a file name of 256 bytes"},
		{name: "empty storage", metadata: "storage-empty", shards: wholeShards, want: Malformed, reason: "storage_data is empty"},
		{name: "a chunk that is stored nowhere", metadata: "chunk-nowhere", shards: wholeShards, want: Malformed, reason: experts + "[2 0 0] is in state_dict_metadata and not in storage_data"},
		{name: "hostile metadata", metadata: "hostile-system", shards: wholeShards, want: Malformed, reason: `imports "posix.system"`},
		{name: "metadata links out", shards: wholeShards, change: symlink(outside, metadataFile), want: Malformed, reason: "path escapes"},
		{name: "metadata is a named pipe", shards: wholeShards,
			change: func(t *testing.T, dir string) {
				if err := syscall.Mkfifo(filepath.Join(dir, metadataFile), 0o644); err != nil {
					t.Fatal(err)
				}
			},
			want: Malformed, reason: ".metadata is not a regular file"},
		{name: "metadata that is too large", metadata: "whole-protocol-2", shards: wholeShards,
			change: func(t *testing.T, dir string) {
				if err := os.Truncate(filepath.Join(dir, metadataFile), int64(MetadataLimits.Bytes)+1); err != nil {
					t.Fatal(err)
				}
			},
			want: Unreadable, reason: "over the limit"},
		{name: "empty metadata", shards: wholeShards,
			change: func(t *testing.T, dir string) {
				if err := os.WriteFile(filepath.Join(dir, metadataFile), nil, 0o644); err != nil {
					t.Fatal(err)
				}
			},
			want: Malformed, reason: "truncated"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "step-20")
			lay(t, dir, test.metadata, test.shards)
			if test.change != nil {
				test.change(t, dir)
			}
			got, err := Verify(t.Context(), dir)
			if err != nil {
				t.Fatal(err)
			}
			if got.State != test.want || !strings.Contains(got.Reason, test.reason) || (got.Reason == "") != (got.State == Whole) {
				t.Errorf("Verify = %s (%s), want %s (…%s…)", got.State, got.Reason, test.want, test.reason)
			}
			if got.Step != 20 || got.Path != dir {
				t.Errorf("Verify names step %d, %s, want 20, %s", got.Step, got.Path, dir)
			}
			if _, err := os.Stat(filepath.Join(dir, "executed")); err == nil {
				t.Error("the metadata was executed")
			}
		})
	}
}

func TestVerifyUnreadable(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "step-20")
	lay(t, dir, "whole-protocol-2", wholeShards)
	if err := os.Chmod(filepath.Join(dir, metadataFile), 0); err != nil {
		t.Fatal(err)
	}
	asNobody(t, dir, func() {
		got, err := Verify(t.Context(), dir)
		if err != nil || got.State != Unreadable || !strings.Contains(got.Reason, "permission denied") {
			t.Errorf("Verify of metadata that may not be read = %s (%s), %v, want %s (permission denied)", got.State, got.Reason, err, Unreadable)
		}
	})
}

// asNobody calls f without the right to read everything that root has. Folders
// above dir are opened to everyone.
func asNobody(t *testing.T, dir string, f func()) {
	t.Helper()
	for up := filepath.Dir(dir); strings.HasPrefix(up, os.TempDir()+string(filepath.Separator)); up = filepath.Dir(up) {
		if err := os.Chmod(up, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		lockForGood()
		if os.Getuid() == 0 {
			if err := unix.Setfsuid(65534); err != nil {
				t.Errorf("setfsuid: %v", err)
				return
			}
		}
		f()
	}()
	<-done
}

func TestVerifyNothingThere(t *testing.T) {
	if _, err := Verify(t.Context(), filepath.Join(t.TempDir(), "step-20")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Verify of a folder that does not exist: error = %v, want %v", err, os.ErrNotExist)
	}
}

func TestVerifyStopsWithContext(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "step-20")
	lay(t, dir, "whole-protocol-2", wholeShards)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Verify(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("Verify after its context ended: error = %v, want %v", err, context.Canceled)
	}
}

func TestReasonIsPrintable(t *testing.T) {
	var r Report
	r.set(Torn, "\x1b[31m"+strings.Repeat("é", maxReason))
	if strings.ContainsRune(r.Reason, '\x1b') || len(r.Reason) > maxReason+len("…") || !strings.HasSuffix(r.Reason, "é…") {
		t.Errorf("reason = %q, want it printable and cut at a character", r.Reason)
	}
}

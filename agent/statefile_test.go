package agent

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestStateFileRoundTrip(t *testing.T) {
	f := &stateFile{path: filepath.Join(t.TempDir(), "state.json")}
	if got, err := f.load(); err != nil || got.Incarnation != 0 {
		t.Errorf("load of no file = %+v, %v, want no state", got, err)
	}
	want := persisted{Schema: stateSchema, Incarnation: 7, Findings: []byte(`{"schema":1}`), Resume: map[string][]byte{"kernel": {0, 0xff}}}
	if err := f.save(want); err != nil {
		t.Fatal(err)
	}
	got, err := (&stateFile{path: f.path}).load()
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("load = %v (-want +got):\n%s", err, diff)
	}
	info, err := os.Stat(f.path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v, %v, want 0600", info.Mode(), err)
	}
}

func TestStateFileIsWrittenOnlyOnChange(t *testing.T) {
	f := &stateFile{path: filepath.Join(t.TempDir(), "state.json")}
	save := func(incarnation int64) {
		t.Helper()
		if err := f.save(persisted{Incarnation: incarnation}); err != nil {
			t.Fatal(err)
		}
	}
	save(1)
	if err := os.Remove(f.path); err != nil {
		t.Fatal(err)
	}
	save(1)
	if _, err := os.Stat(f.path); err == nil {
		t.Error("an unchanged state was written again")
	}
	save(2)
	if _, err := os.Stat(f.path); err != nil {
		t.Errorf("a changed state was not written: %v", err)
	}
}

// A failed write leaves what was there, and is made up for by the next.
func TestStateFileFailedWrite(t *testing.T) {
	dir := t.TempDir()
	f := &stateFile{path: filepath.Join(dir, "state.json")}
	if err := f.save(persisted{Incarnation: 1}); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(f.path+".tmp", 0o700); err != nil { // nothing can be written there
		t.Fatal(err)
	}
	if err := f.save(persisted{Incarnation: 2}); err == nil {
		t.Error("save that cannot write = nil error")
	}
	if got, err := f.load(); err != nil || got.Incarnation != 1 {
		t.Errorf("load = %+v, %v, want the state before", got, err)
	}
	if err := os.Remove(f.path + ".tmp"); err != nil {
		t.Fatal(err)
	}
	if err := f.save(persisted{Incarnation: 2}); err != nil {
		t.Fatal(err)
	}
	if got, err := f.load(); err != nil || got.Incarnation != 2 {
		t.Errorf("load = %+v, %v, want the new state", got, err)
	}
}

func TestUnusableStateIsKeptAside(t *testing.T) {
	for name, content := range map[string][]byte{
		"empty":                nil,
		"torn":                 []byte(`{"schema":1,"incarn`),
		"other schema":         []byte(`{"schema":2,"incarnation":5}`),
		"negative incarnation": []byte(`{"schema":1,"incarnation":-5}`),
		"huge":                 bytes.Repeat([]byte(" "), maxStateBytes+1),
	} {
		t.Run(name, func(t *testing.T) {
			f := &stateFile{path: filepath.Join(t.TempDir(), "state.json")}
			if err := os.WriteFile(f.path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			if got, err := f.load(); err == nil || got.Incarnation != 0 {
				t.Errorf("load = %+v, %v, want an error and no state", got, err)
			}
			if kept, err := os.ReadFile(f.path + ".unusable"); err != nil || !bytes.Equal(kept, content) {
				t.Errorf("kept %d bytes, %v, want the file as it was", len(kept), err)
			}
			if _, err := f.load(); err != nil {
				t.Errorf("second load = %v, want a fresh start", err)
			}
		})
	}
}

func FuzzStateFile(f *testing.F) {
	f.Add([]byte(`{"schema":1,"incarnation":7,"findings":{"schema":1},"resume":{"kernel":"AP8="}}`))
	f.Add([]byte(`{"schema":1,"resume":null}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		file := &stateFile{path: filepath.Join(t.TempDir(), "state.json")}
		if err := os.WriteFile(file.path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := file.load()
		if err == nil && (p.Schema != stateSchema || p.Incarnation < 0) {
			t.Errorf("load(%q) = %+v", content, p)
		}
	})
}

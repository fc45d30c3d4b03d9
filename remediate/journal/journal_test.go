package journal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evenkeel/evenkeel/remediate/journal"
)

func openBolt(t testing.TB, path string) *journal.Bolt {
	t.Helper()
	b, err := journal.OpenBolt(path, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func acquire(t testing.TB, j journal.Journal) journal.Session {
	t.Helper()
	s, err := j.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// put writes and fails the test unless the error is the wanted one.
func put(t testing.TB, s journal.Session, key string, expected uint64, value string, want error) {
	t.Helper()
	revision, err := s.Put(context.Background(), key, expected, []byte(value))
	if !errors.Is(err, want) {
		t.Errorf("Put(%s, %d) = %v, want %v", key, expected, err, want)
	}
	if err == nil && revision != expected+1 {
		t.Errorf("Put(%s, %d) = revision %d, want %d", key, expected, revision, expected+1)
	}
}

func load(t testing.TB, s journal.Session) map[string]string {
	t.Helper()
	records, err := s.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	last := ""
	for _, r := range records {
		if r.Key <= last && last != "" {
			t.Errorf("Load gives %q after %q", r.Key, last)
		}
		last = r.Key
		got[r.Key] = fmt.Sprintf("%d %s", r.Revision, r.Value)
	}
	return got
}

// Every implementation of the interface has to pass this.
func TestConformance(t *testing.T) {
	for name, open := range map[string]func(*testing.T) journal.Journal{
		"memory": func(t *testing.T) journal.Journal { return &journal.Memory{} },
		"bolt":   func(t *testing.T) journal.Journal { return openBolt(t, filepath.Join(t.TempDir(), "journal.db")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Run("compare and swap", func(t *testing.T) {
				s := acquire(t, open(t))
				put(t, s, "a", 1, "too early", journal.ErrConflict)
				put(t, s, "a", 0, "one", nil)
				put(t, s, "a", 0, "again", journal.ErrConflict)
				put(t, s, "a", 1, "two", nil)
				put(t, s, "a", 1, "late", journal.ErrConflict)
				put(t, s, "b", 0, "", nil)
				if diff := cmp.Diff(map[string]string{"a": "2 two", "b": "1 "}, load(t, s)); diff != "" {
					t.Errorf("records differ (-want +got):\n%s", diff)
				}
			})
			t.Run("delete", func(t *testing.T) {
				s := acquire(t, open(t))
				put(t, s, "a", 0, "one", nil)
				if err := s.Delete(t.Context(), "a", 2); !errors.Is(err, journal.ErrConflict) {
					t.Errorf("Delete at another revision = %v, want %v", err, journal.ErrConflict)
				}
				if err := s.Delete(t.Context(), "a", 1); err != nil {
					t.Errorf("Delete = %v", err)
				}
				put(t, s, "a", 0, "new", nil)
				if diff := cmp.Diff(map[string]string{"a": "1 new"}, load(t, s)); diff != "" {
					t.Errorf("records differ (-want +got):\n%s", diff)
				}
			})
			t.Run("fencing", func(t *testing.T) {
				j := open(t)
				old := acquire(t, j)
				put(t, old, "a", 0, "old", nil)
				young := acquire(t, j)
				if young.Epoch() <= old.Epoch() {
					t.Errorf("epoch %d follows %d", young.Epoch(), old.Epoch())
				}
				put(t, old, "a", 1, "zombie", journal.ErrFenced)
				put(t, old, "b", 0, "zombie", journal.ErrFenced)
				if _, err := old.Load(t.Context()); !errors.Is(err, journal.ErrFenced) {
					t.Errorf("Load of a fenced session = %v, want %v", err, journal.ErrFenced)
				}
				if err := old.Delete(t.Context(), "a", 1); !errors.Is(err, journal.ErrFenced) {
					t.Errorf("Delete of a fenced session = %v, want %v", err, journal.ErrFenced)
				}
				put(t, young, "a", 1, "young", nil)
				if diff := cmp.Diff(map[string]string{"a": "2 young"}, load(t, young)); diff != "" {
					t.Errorf("records differ (-want +got):\n%s", diff)
				}
			})
			t.Run("one winner", func(t *testing.T) {
				s := acquire(t, open(t))
				var wins sync.Map
				var writers sync.WaitGroup
				for n := range 32 {
					writers.Go(func() {
						_, err := s.Put(context.Background(), "a", 0, fmt.Append(nil, n))
						if err == nil {
							wins.Store(n, true)
						} else if !errors.Is(err, journal.ErrConflict) {
							t.Errorf("Put = %v, want %v", err, journal.ErrConflict)
						}
					})
				}
				writers.Wait()
				count := 0
				wins.Range(func(n, _ any) bool {
					count++
					if got := load(t, s)["a"]; got != fmt.Sprintf("1 %d", n) {
						t.Errorf("record is %q, the winner wrote %d", got, n)
					}
					return true
				})
				if count != 1 {
					t.Errorf("%d of 32 writers won, want 1", count)
				}
			})
			t.Run("values are the journal's own", func(t *testing.T) {
				s := acquire(t, open(t))
				value := []byte("one")
				if _, err := s.Put(t.Context(), "a", 0, value); err != nil {
					t.Fatal(err)
				}
				value[0] = 'X'
				if got := load(t, s)["a"]; got != "1 one" {
					t.Errorf("record is %q after the caller changed its slice", got)
				}
			})
		})
	}
}

func TestBoltRemembers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.db")
	b := openBolt(t, path)
	s := acquire(t, b)
	put(t, s, "a", 0, "one", nil)
	b.Close()
	again := acquire(t, openBolt(t, path))
	if again.Epoch() <= s.Epoch() {
		t.Errorf("epoch %d after a restart follows %d", again.Epoch(), s.Epoch())
	}
	if diff := cmp.Diff(map[string]string{"a": "1 one"}, load(t, again)); diff != "" {
		t.Errorf("records differ (-want +got):\n%s", diff)
	}
}

func TestBoltSaysWhoHoldsTheLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.db")
	openBolt(t, path)
	_, err := journal.OpenBolt(path, 10*time.Millisecond)
	want := fmt.Sprintf("in use by process %d", os.Getpid())
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("OpenBolt of an open journal = %v, want an error with %q", err, want)
	}
}

// written makes a journal with n records and gives its bytes.
func written(t testing.TB, n int) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journal.db")
	b := openBolt(t, path)
	s := acquire(t, b)
	for i := range n {
		put(t, s, fmt.Sprintf("incident/%03d", i), 0, strings.Repeat("evidence ", 100), nil)
	}
	b.Close()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// open writes content to a file, opens it and reads all of it.
func open(t testing.TB, content []byte) (records int, err error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journal.db")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := journal.OpenBolt(path, time.Second)
	if err != nil {
		return 0, err
	}
	defer b.Close()
	s, err := b.Acquire(t.Context())
	if err != nil {
		return 0, err
	}
	all, err := s.Load(t.Context())
	for _, r := range all {
		if string(r.Value) != strings.Repeat("evidence ", 100) {
			t.Errorf("record %s was changed and not noticed", r.Key)
		}
	}
	return len(all), err
}

// A journal cut off anywhere is refused, the empty one too: it may have been a
// full one.
func TestBoltRefusesTruncated(t *testing.T) {
	whole := written(t, 40)
	if n, err := open(t, whole); n != 40 || err != nil {
		t.Fatalf("open(whole) = %d records, %v, want 40", n, err)
	}
	for _, size := range []int{0, 1, 100, 4095, 4096, 8191, 8192, 16384, 20480, len(whole) / 2, len(whole) / 4 * 3} {
		if _, err := open(t, whole[:size]); err == nil {
			t.Errorf("open(first %d of %d bytes) succeeded", size, len(whole))
		} else if !strings.Contains(err.Error(), "truncated") && !strings.Contains(err.Error(), "damaged") {
			t.Errorf("open(first %d of %d bytes) = %v, want it to say that the journal is truncated or damaged", size, len(whole), err)
		}
	}
}

// Whatever byte of a journal is damaged: it is refused, or it was in a page that
// is not in use, and every record is still there.
func TestBoltNoticesDamage(t *testing.T) {
	whole := written(t, 40)
	refused := 0
	var places []int
	for at := 0; at < len(whole); at += 769 {
		places = append(places, at)
	}
	for page := 0; page <= 4096; page += 4096 { // the meta pages, more closely
		for at := 16; at < 80; at += 4 {
			places = append(places, page+at)
		}
	}
	for _, at := range places {
		damaged := bytes.Clone(whole)
		damaged[at] ^= 0xFF
		n, err := open(t, damaged)
		if err != nil {
			refused++
		} else if n != 40 {
			t.Errorf("byte %d damaged: opened with %d of 40 records", at, n)
		}
	}
	if refused == 0 {
		t.Error("no damage was refused")
	}
}

func TestBoltRefusesAnythingElse(t *testing.T) {
	for name, content := range map[string][]byte{
		"text":  bytes.Repeat([]byte("this is no journal\n"), 1000),
		"zeros": make([]byte, 1<<16),
	} {
		if _, err := open(t, content); err == nil {
			t.Errorf("open(%s) succeeded", name)
		}
	}
}

func FuzzOpenBolt(f *testing.F) {
	whole := written(f, 5)
	f.Add(uint32(0), byte(1), uint32(len(whole)))
	f.Add(uint32(4096+16), byte(0xFF), uint32(len(whole)))
	f.Add(uint32(9000), byte(3), uint32(len(whole)/2))
	f.Fuzz(func(t *testing.T, at uint32, flip byte, size uint32) {
		content := bytes.Clone(whole[:min(int(size), len(whole))])
		if int(at) < len(content) {
			content[at] ^= flip
		}
		if n, err := open(t, content); err == nil && n != 5 {
			t.Errorf("byte %d ^ %#x, first %d bytes: opened with %d of 5 records", at, flip, size, n)
		}
	})
}

// Writes that meet share a commit: 750 isolations at once must be written down
// well within 10 s.
func BenchmarkBoltPutTogether(b *testing.B) {
	const together = 64
	s := acquire(b, openBolt(b, filepath.Join(b.TempDir(), "journal.db")))
	value := bytes.Repeat([]byte("x"), 2048)
	n := 0
	for b.Loop() {
		var writers sync.WaitGroup
		for range together {
			key := fmt.Sprintf("incident/%08d", n)
			n++
			writers.Go(func() {
				if _, err := s.Put(context.Background(), key, 0, value); err != nil {
					b.Error(err)
				}
			})
		}
		writers.Wait()
	}
	b.ReportMetric(float64(b.N*together)/b.Elapsed().Seconds(), "writes/s")
}

func BenchmarkBoltPutAlone(b *testing.B) {
	s := acquire(b, openBolt(b, filepath.Join(b.TempDir(), "journal.db")))
	value := bytes.Repeat([]byte("x"), 2048)
	var revision uint64
	for b.Loop() {
		var err error
		if revision, err = s.Put(context.Background(), "incident/1", revision, value); err != nil {
			b.Fatal(err)
		}
	}
}

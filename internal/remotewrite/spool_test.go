package remotewrite

import (
	"bytes"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func openSpool(t testing.TB, dir string, limits SpoolConfig) (*Spool, *metrics) {
	t.Helper()
	if limits.MaxBytes == 0 {
		limits.MaxBytes = 1 << 20
	}
	if limits.MaxAge == 0 {
		limits.MaxAge = time.Hour
	}
	m := newMetrics(nil)
	s, err := OpenSpool(dir, limits, m, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s, m
}

func closeSpool(t testing.TB, s *Spool) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// body makes a small body that is recognised by its text.
func body(text string, samples int) Body {
	return Body{Time: at.UnixMilli(), Samples: samples, Content: []byte(text)}
}

// drain settles everything that waits and gives its contents in order.
func drain(s *Spool, now time.Time) (out []string) {
	for {
		r, ok := s.Next(now, nil)
		if !ok {
			return out
		}
		out = append(out, string(r.Content))
		s.Settle("")
	}
}

func dropped(m *metrics, reason string) float64 {
	return testutil.ToFloat64(m.dropped.WithLabelValues(reason))
}

func TestSpoolKeepsOrderAcrossRestarts(t *testing.T) {
	dir := t.TempDir()
	var want, got []string
	for run := range 3 {
		s, _ := openSpool(t, dir, SpoolConfig{})
		for i := range 4 {
			text := fmt.Sprintf("%d-%d", run, i)
			want = append(want, text)
			s.Append(body(text, 1), at)
		}
		for range 2 { // less than came
			r, ok := s.Next(at, nil)
			if !ok {
				t.Fatal("Next found nothing")
			}
			got = append(got, string(r.Content))
			s.Settle("")
		}
		if run == 1 {
			s.Next(at, nil) // handed out and never settled: comes again
		}
		closeSpool(t, s)
	}
	s, m := openSpool(t, dir, SpoolConfig{})
	got = append(got, drain(s, at)...)
	if !slices.Equal(got, want) {
		t.Errorf("bodies = %v, want %v", got, want)
	}
	if n := testutil.ToFloat64(m.corruptions); n != 0 {
		t.Errorf("corruptions = %v, want 0", n)
	}
	closeSpool(t, s)
	if left := segmentFiles(t, dir); len(left) != 0 {
		t.Errorf("segments left after all was sent: %v", left)
	}
}

// A new segment must not get a number that the cursor says is settled.
func TestSpoolKeepsWhatCameAfterAllWasSent(t *testing.T) {
	dir := t.TempDir()
	for i := range 3 {
		s, _ := openSpool(t, dir, SpoolConfig{})
		s.Append(body("sent", 1), at)
		drain(s, at)
		closeSpool(t, s)
		s, _ = openSpool(t, dir, SpoolConfig{}) // removes what is settled
		closeSpool(t, s)
		s, _ = openSpool(t, dir, SpoolConfig{})
		s.Append(body("kept", 1), at)
		closeSpool(t, s)
		s, _ = openSpool(t, dir, SpoolConfig{})
		if got := drain(s, at); !slices.Equal(got, []string{"kept"}) {
			t.Errorf("round %d: bodies = %v, want the one that came after the others were sent", i, got)
		}
		closeSpool(t, s)
	}
}

func segmentFiles(t testing.TB, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestSpoolFilesAreForItsOwnerOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	s, _ := openSpool(t, dir, SpoolConfig{})
	s.Append(body("x", 1), at)
	s.Next(at, nil)
	s.Settle("")
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if perm := info.Mode().Perm(); perm&0o077 != 0 {
			t.Errorf("%s has mode %o, want nothing for others", path, perm)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	closeSpool(t, s)
}

func TestSpoolBelongsToOneProcess(t *testing.T) {
	dir := t.TempDir()
	s, _ := openSpool(t, dir, SpoolConfig{})
	if _, err := OpenSpool(dir, DefaultConfig().Spool, newMetrics(nil), slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("second OpenSpool = %v, want an error that says it is in use", err)
	}
	closeSpool(t, s)
	again, _ := openSpool(t, dir, SpoolConfig{})
	closeSpool(t, again)
}

func TestSpoolDropsTheOldestBeyondItsSize(t *testing.T) {
	const limit = 4000 // segments of 1000 bytes: 8 records of 124 bytes end one
	dir := t.TempDir()
	s, m := openSpool(t, dir, SpoolConfig{MaxBytes: limit})
	for i := range 100 {
		s.Append(body(fmt.Sprintf("%0100d", i), 1), at)
		if size := diskBytes(t, dir); size > limit {
			t.Fatalf("after %d bodies the spool has %d bytes, want at most %d", i+1, size, limit)
		}
	}
	got := drain(s, at)
	if want := fmt.Sprintf("%0100d", 99); got[len(got)-1] != want {
		t.Errorf("newest body = %q, want %q", got[len(got)-1], want)
	}
	if !slices.IsSorted(got) || len(got) < 16 {
		t.Errorf("%d bodies left, in order: %v; want at least two segments' worth, in order", len(got), slices.IsSorted(got))
	}
	if lost := dropped(m, dropSpoolFull); int(lost)+len(got) != 100 {
		t.Errorf("%v counted as dropped and %d left, want 100 together", lost, len(got))
	}
	closeSpool(t, s)
}

func diskBytes(t testing.TB, dir string) (sum int64) {
	t.Helper()
	for _, file := range segmentFiles(t, dir) {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		sum += info.Size()
	}
	return sum
}

func TestSpoolDropsAroundABodyInFlight(t *testing.T) {
	s, m := openSpool(t, t.TempDir(), SpoolConfig{MaxBytes: 1000})
	s.Append(body("in flight", 7), at)
	if r, ok := s.Next(at, nil); !ok || string(r.Content) != "in flight" {
		t.Fatalf("Next = %q, %v", r.Content, ok)
	}
	for range 20 {
		s.Append(body(strings.Repeat("x", 100), 1), at)
	}
	if p := s.Pending(); p.Oldest != at.UnixMilli() || p.Samples < 8 {
		t.Errorf("Pending = %+v, want the 7 samples in flight among others", p)
	}
	s.Settle("")
	left := len(drain(s, at))
	if lost := dropped(m, dropSpoolFull); int(lost)+left != 20 {
		t.Errorf("%v dropped and %d left, want 20 together: the body in flight was not dropped", lost, left)
	}
	if p := s.Pending(); p.Samples != 0 || p.Oldest != 0 {
		t.Errorf("Pending = %+v, want nothing", p)
	}
	closeSpool(t, s)
}

func TestSpoolRefusesABodyLargerThanItself(t *testing.T) {
	s, m := openSpool(t, t.TempDir(), SpoolConfig{MaxBytes: 1000})
	s.Append(body("kept", 1), at)
	s.Append(body(strings.Repeat("x", 1000), 3), at)
	if got := drain(s, at); !slices.Equal(got, []string{"kept"}) || dropped(m, dropSpoolFull) != 3 {
		t.Errorf("left %v, dropped %v; want the small one kept and 3 samples dropped", got, dropped(m, dropSpoolFull))
	}
	closeSpool(t, s)
}

func TestSpoolGivesUpOldBodies(t *testing.T) {
	dir := t.TempDir()
	s, m := openSpool(t, dir, SpoolConfig{MaxAge: time.Minute})
	old, young := body("old", 2), body("young", 1)
	young.Time += 1
	s.Append(old, at)
	s.Append(young, at)
	now := at.Add(time.Minute + time.Millisecond) // old is one millisecond too old
	if got := drain(s, now); !slices.Equal(got, []string{"young"}) || dropped(m, dropTooOld) != 2 {
		t.Errorf("left %v, dropped %v; want young left and 2 samples dropped", got, dropped(m, dropTooOld))
	}
	// A clock that was set back makes bodies of the future, which are not old.
	s.Append(young, at)
	if got := drain(s, at.Add(-24*time.Hour)); !slices.Equal(got, []string{"young"}) {
		t.Errorf("with the clock set back: %v, want young", got)
	}
	closeSpool(t, s)
}

func TestSpoolSurvivesADiskThatTakesNothing(t *testing.T) {
	dir := t.TempDir()
	s, m := openSpool(t, dir, SpoolConfig{})
	s.Append(body("before", 1), at)
	// Writes fail from here on as they do on a full disk, also in part.
	s.mu.Lock()
	readOnly, err := os.Open(s.path(s.segments[0].id))
	if err != nil {
		t.Fatal(err)
	}
	writable := s.active
	s.active = readOnly
	s.mu.Unlock()
	s.Append(body("lost", 5), at)
	if dropped(m, dropDisk) != 5 {
		t.Errorf("dropped = %v, want 5", dropped(m, dropDisk))
	}
	if err := writable.Close(); err != nil {
		t.Fatal(err)
	}
	s.Append(body("after", 1), at)
	if got, want := drain(s, at), []string{"before", "after"}; !slices.Equal(got, want) {
		t.Errorf("bodies = %v, want %v", got, want)
	}
	closeSpool(t, s)
}

func TestSpoolSurvivesAFolderThatIsGone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	s, m := openSpool(t, dir, SpoolConfig{})
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	s.Append(body("lost", 5), at)
	if dropped(m, dropDisk) != 5 {
		t.Errorf("dropped = %v, want 5", dropped(m, dropDisk))
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s.Append(body("kept", 1), at)
	if got := drain(s, at); !slices.Equal(got, []string{"kept"}) {
		t.Errorf("bodies = %v, want the one written when the folder was back", got)
	}
	closeSpool(t, s)
}

// A crash can end the newest segment at any byte.
func TestSpoolCutAnywhere(t *testing.T) {
	whole, ends := smallSegment(t)
	for cut := range len(whole) + 1 {
		got, m := reopen(t, whole[:cut])
		want := 0
		for want < len(ends) && ends[want] <= cut {
			want++
		}
		if !slices.Equal(got, smallBodies[:want]) {
			t.Errorf("cut at %d: bodies = %v, want the first %d", cut, got, want)
		}
		torn := 0.0
		if cut > 0 && !slices.Contains(ends, cut) {
			torn = 1
		}
		if n := testutil.ToFloat64(m.corruptions); n != torn {
			t.Errorf("cut at %d: corruptions = %v, want %v", cut, n, torn)
		}
	}
}

// A disk can change any byte; one record is lost and counted, the others are not.
func TestSpoolDamagedAnywhere(t *testing.T) {
	whole, ends := smallSegment(t)
	for i := range whole {
		damaged := bytes.Clone(whole)
		damaged[i] ^= 0x40
		hit := 0
		for ends[hit] <= i {
			hit++
		}
		got, m := reopen(t, damaged)
		if want := slices.Delete(slices.Clone(smallBodies), hit, hit+1); !slices.Equal(got, want) {
			t.Errorf("byte %d changed: bodies = %v, want %v", i, got, want)
		}
		if n := testutil.ToFloat64(m.corruptions); n != 1 {
			t.Errorf("byte %d changed: corruptions = %v, want 1", i, n)
		}
	}
}

var smallBodies = []string{"first body", "second", "the third body", "4"}

// smallSegment is one segment's bytes and where each of its records ends.
func smallSegment(t testing.TB) (content []byte, ends []int) {
	t.Helper()
	for _, text := range smallBodies {
		b := body(text, 1)
		content = append(newHeader(b).append(content), text...)
		ends = append(ends, len(content))
	}
	return content, ends
}

func reopen(t testing.TB, segment []byte) ([]string, *metrics) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "00000000000000000007"+segmentSuffix), segment, 0o600); err != nil {
		t.Fatal(err)
	}
	s, m := openSpool(t, dir, SpoolConfig{})
	got := drain(s, at)
	// What is written now must never stand behind a torn record.
	s.Append(body("fresh", 1), at)
	if fresh := drain(s, at); !slices.Equal(fresh, []string{"fresh"}) {
		t.Errorf("after recovery: %v, want the fresh body", fresh)
	}
	closeSpool(t, s)
	return got, m
}

func TestCursor(t *testing.T) {
	good := formatCursor(position{segment: 12, offset: 3456})
	for i := range len(good) + 1 {
		if p, err := parseCursor(good[:i]); (err == nil) != (i == len(good)) {
			t.Errorf("parseCursor(%q) = %v, %v", good[:i], p, err)
		}
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if p, err := parseCursor(bad); err == nil {
			t.Errorf("parseCursor(%q) = %v, want an error", bad, p)
		}
	}
}

func TestSpoolSendsAllAgainWithoutACursor(t *testing.T) {
	dir := t.TempDir()
	s, _ := openSpool(t, dir, SpoolConfig{})
	for _, text := range smallBodies {
		s.Append(body(text, 1), at)
	}
	s.Next(at, nil)
	s.Settle("")
	closeSpool(t, s)
	if err := os.WriteFile(filepath.Join(dir, cursorName), []byte("1 10 00000000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, _ = openSpool(t, dir, SpoolConfig{})
	if got := drain(s, at); !slices.Equal(got, smallBodies) {
		t.Errorf("bodies = %v, want all of %v", got, smallBodies)
	}
	closeSpool(t, s)
}

// FuzzSpool puts arbitrary bytes where a segment was: nothing may crash, take
// long, or come out that no header and checksum vouch for.
func FuzzSpool(f *testing.F) {
	whole, ends := smallSegment(f)
	f.Add(whole)
	f.Add(whole[:ends[1]+5])
	f.Add(append(bytes.Repeat([]byte{0}, 100), whole...))
	f.Fuzz(func(t *testing.T, segment []byte) {
		records, found, err := scanSegment(bytes.NewReader(segment), 0, int64(len(segment)))
		if err != nil {
			t.Fatalf("scanSegment: %v", err)
		}
		covered, end := 0, int64(0)
		for _, l := range records {
			if l.offset < end || l.end() > int64(len(segment)) {
				t.Fatalf("record %+v overlaps or leaves the segment", l)
			}
			end = l.end()
			covered += headerBytes + l.length
		}
		if (covered < len(segment)) != (found.places > 0) {
			t.Errorf("%d of %d bytes are records, yet damage = %+v", covered, len(segment), found)
		}
		reopen(t, segment)
	})
}

func FuzzCursor(f *testing.F) {
	f.Add(formatCursor(position{1, 2}))
	f.Add([]byte("1 2"))
	f.Fuzz(func(t *testing.T, content []byte) {
		if p, err := parseCursor(content); err == nil && !bytes.Equal(formatCursor(p), content) {
			t.Errorf("parseCursor(%q) = %v, which is written differently", content, p)
		}
	})
}

package kernel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/evenkeel/evenkeel/agent/source"
	"github.com/evenkeel/evenkeel/internal/fault"
)

const boot1, boot2 = "9d7e0a52-0000-4000-8000-000000000001", "9d7e0a52-0000-4000-8000-000000000002"

// fakeDevice is a /dev/kmsg of which each read gives the next step: a record or
// an error. After the last it is quiet until its deadline.
type fakeDevice struct {
	steps    []any
	deadline time.Time
	quiet    int // deadlines that pass before it is closed
}

func (d *fakeDevice) SetReadDeadline(t time.Time) error { d.deadline = t; return nil }

func (d *fakeDevice) Read(b []byte) (int, error) {
	if len(d.steps) == 0 {
		if d.quiet == 0 {
			return 0, os.ErrClosed
		}
		d.quiet--
		time.Sleep(time.Until(d.deadline))
		return 0, os.ErrDeadlineExceeded
	}
	step := d.steps[0]
	d.steps = d.steps[1:]
	switch step := step.(type) {
	case error:
		return 0, &os.PathError{Op: "read", Path: "/dev/kmsg", Err: step}
	default:
		return copy(b, step.(string)), nil
	}
}

func xidRecord(seq int, usec time.Duration) string {
	return fmt.Sprintf("4,%d,%d,-;NVRM: Xid (PCI:0000:91:00): 79, GPU has fallen off the bus.\n", seq, usec.Microseconds())
}

// counter gives a reading of the batch, summed over its label sets.
func counter(b source.Batch, name string) (sum float64) {
	for _, r := range b.Readings {
		if r.Name == name {
			sum += r.Value
		}
	}
	return sum
}

// sequences lists the sequence numbers of all observations.
func sequences(batches []source.Batch) (out []uint64) {
	for _, b := range batches {
		for _, o := range b.Observations {
			out = append(out, o.Evidence.Sequence)
		}
	}
	return out
}

func TestFollowDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		run := func(resume []byte, bootID string, d *fakeDevice) (batches []source.Batch, err error) {
			s := New(Config{BootID: bootID, Resume: resume})
			s.clock = clock{now: time.Now, uptime: func() time.Duration { return time.Hour + time.Since(began) }}
			err = s.followDevice(d, func(b source.Batch) { batches = append(batches, b) })
			return batches, err
		}
		records := func() []any {
			return []any{
				"6,10,1,-;NVRM: GPU at PCI:0000:91:00: GPU-b6c3\n", xidRecord(11, time.Hour-5*time.Second), "garbage",
				error(unix.EPIPE), xidRecord(20, time.Hour), "12,21,3600000000,-;NVRM: Xid (PCI:0000:91:00): 79\n",
			}
		}
		batches, err := run(nil, boot1, &fakeDevice{steps: records(), quiet: 2})
		if !errors.Is(err, os.ErrClosed) {
			t.Fatalf("followDevice = %v, want %v", err, os.ErrClosed)
		}
		if got, want := sequences(batches), []uint64{11, 20, 21}; !slices.Equal(got, want) {
			t.Errorf("observed records %v, want %v", got, want)
		}
		if o := batches[1].Observations[0]; !o.Time.Equal(began.Add(-5*time.Second)) || o.Simulated || o.Subject.UUID != "GPU-b6c3" {
			t.Errorf("first observation = %+v, want one of 5 s before now, not simulated, with the UUID", o)
		}
		if len(batches) != 6 {
			t.Errorf("%d batches, want one at the start, one per record that says something, and one per quiet second", len(batches))
		}
		last := batches[len(batches)-1]
		for name, want := range map[string]float64{
			"evenkeel_agent_kernel_records_total": 4, "evenkeel_agent_kernel_malformed_records_total": 1,
			"evenkeel_agent_kernel_lost_records_total": 8, "evenkeel_agent_kernel_xids_total": 2,
		} {
			if got := counter(last, name); got != want {
				t.Errorf("%s = %v, want %v", name, got, want)
			}
		}

		resumed, _ := run(batches[2].Resume, boot1, &fakeDevice{steps: records()})
		if got, want := sequences(resumed), []uint64{21}; !slices.Equal(got, want) {
			t.Errorf("after a restart that had taken record 20: observed records %v, want %v", got, want)
		}
		rebooted, _ := run(batches[2].Resume, boot2, &fakeDevice{steps: records()})
		if got, want := sequences(rebooted), []uint64{11, 20, 21}; !slices.Equal(got, want) {
			t.Errorf("after a reboot: observed records %v, want %v", got, want)
		}
	})
}

func TestWall(t *testing.T) {
	now := time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)
	c := clock{now: func() time.Time { return now }, uptime: func() time.Duration { return time.Hour }}
	for _, tc := range []struct {
		uptime, limit time.Duration
		want          time.Time
	}{
		{time.Hour, 0, now},
		{time.Minute, 0, now.Add(-59 * time.Minute)},
		{time.Hour + time.Microsecond, 0, now},
		{time.Hour - 10*time.Second, 10 * time.Second, now.Add(-10 * time.Second)},
		{time.Hour - 10*time.Second - time.Microsecond, 10 * time.Second, now},
	} {
		if got := c.wall(tc.uptime, tc.limit); !got.Equal(tc.want) {
			t.Errorf("wall(%s, %s) = %s, want %s", tc.uptime, tc.limit, got, tc.want)
		}
	}
}

// running is a source that runs until the test ends or stop is called.
type running struct {
	batches chan source.Batch
	stop    func()
}

func start(t *testing.T, c Config) running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := running{batches: make(chan source.Batch, 1024)}
	done := make(chan error, 1)
	go func() { done <- New(c).Run(ctx, func(b source.Batch) { r.batches <- b }) }()
	r.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		done <- nil
	}
	t.Cleanup(r.stop)
	return r
}

// until gives the first batch that is wanted.
func (r running) until(t *testing.T, want func(source.Batch) bool) source.Batch {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		select {
		case b := <-r.batches:
			if want(b) {
				return b
			}
		case <-deadline:
			t.Fatal("no such batch within 10 s")
		}
	}
}

func ready(b source.Batch) bool { return b.Coverage == fault.CoverageOK }

func observed(seqs ...uint64) func(source.Batch) bool {
	var got []uint64
	return func(b source.Batch) bool {
		got = append(got, sequences([]source.Batch{b})...)
		return slices.Equal(got, seqs)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestFollowFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kmsg")
	write(t, path, xidRecord(1, 0))
	// An hour between polls: only what the file system announces can be seen.
	r := start(t, Config{Path: path, BootID: boot1, Interval: time.Hour})
	first := r.until(t, observed(1))
	if o := first.Observations[0]; !first.Simulated || !o.Simulated || time.Since(o.Time) > time.Minute {
		t.Errorf("first batch = %+v, want it and its observation simulated and of now", first)
	}

	half := xidRecord(2, 0)
	write(t, path, half[:40])
	write(t, path, half[40:]+" SUBSYSTEM=pci\n"+xidRecord(3, 0))
	r.until(t, observed(2, 3))

	if err := os.Rename(path, path+".1"); err != nil { // rotated, with a late line to the old file
		t.Fatal(err)
	}
	write(t, path+".1", xidRecord(4, 0))
	write(t, path, xidRecord(5, 0))
	r.until(t, observed(4, 5))

	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	write(t, path, "4,6,0,-;NVRM: Xid (PCI:0000:91:00): 79\n") // shorter than what was there
	r.until(t, observed(6))

	write(t, path, strings.Repeat("x", 3*maxLine)+"\n"+xidRecord(7, 0))
	if b := r.until(t, observed(7)); counter(b, "evenkeel_agent_kernel_malformed_records_total") != 1 {
		t.Errorf("readings after a line that is too long = %v, want it counted as malformed", b.Readings)
	}
}

func TestFollowFileResumes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kmsg")
	write(t, path, xidRecord(1, 0)+xidRecord(2, 0)[:30])
	r := start(t, Config{Path: path, BootID: boot1})
	resume := r.until(t, observed(1)).Resume
	r.stop()
	write(t, path, xidRecord(2, 0)[30:])
	for _, tc := range []struct {
		name, boot string
		resume     []byte
		want       []uint64
	}{
		{"same boot", boot1, resume, []uint64{2}},
		{"another boot", boot2, resume, []uint64{1, 2}},
		{"no state", boot1, nil, []uint64{1, 2}},
		{"broken state", boot1, []byte("{"), []uint64{1, 2}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			start(t, Config{Path: path, BootID: tc.boot, Resume: tc.resume}).until(t, observed(tc.want...))
		})
	}
}

func TestUnreadableLogIsUnknown(t *testing.T) {
	dir := t.TempDir()
	for _, tc := range []struct{ path, want string }{
		{filepath.Join(dir, "absent"), "no such file"},
		{dir, "neither a device nor a regular file"},
	} {
		r := start(t, Config{Path: tc.path, BootID: boot1, Interval: time.Millisecond})
		b := r.until(t, func(source.Batch) bool { return true })
		if b.Coverage != fault.CoverageUnknown || !strings.Contains(b.Detail, tc.want) {
			t.Errorf("source of %s says %s: %q, want unknown: %q", tc.path, b.Coverage, b.Detail, tc.want)
		}
	}
	path := filepath.Join(dir, "late")
	r := start(t, Config{Path: path, BootID: boot1, Interval: time.Millisecond})
	r.until(t, func(b source.Batch) bool { return b.Coverage == fault.CoverageUnknown })
	write(t, path, xidRecord(1, 0))
	r.until(t, observed(1))
}

// TestRealKernelLog writes to the machine's own kernel log, and only if
// EVENKEEL_TEST_KMSG=1 says that it may. What it writes is of user facility, and
// of an Xid on a device that no machine has.
func TestRealKernelLog(t *testing.T) {
	if os.Getenv("EVENKEEL_TEST_KMSG") != "1" {
		t.Skip("EVENKEEL_TEST_KMSG is not 1")
	}
	r := start(t, Config{Path: "/dev/kmsg", BootID: boot1})
	r.until(t, ready)
	tag := "evenkeel-test-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	var latencies []time.Duration
	for i := range 200 {
		text := fmt.Sprintf("NVRM: Xid (PCI:fffe:ff:1f): 79, %s-%d.", tag, i)
		began := time.Now()
		// One open per line: the kernel rate-limits a writer that stays open.
		write(t, "/dev/kmsg", "<12>"+text+"\n")
		b := r.until(t, func(b source.Batch) bool {
			return len(b.Observations) > 0 && b.Observations[0].Evidence.Text == text
		})
		latencies = append(latencies, time.Since(began))
		o := b.Observations[0]
		if o.Evidence.Authority != fault.ByNobody || o.Simulated || o.Time.Sub(began).Abs() > time.Second {
			t.Fatalf("observation = %+v, want one of now that nobody vouches for", o)
		}
	}
	slices.Sort(latencies)
	t.Logf("line written to batch emitted: p50 %s, p99 %s, max %s", latencies[100], latencies[198], latencies[199])
}

func TestFileLatency(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kmsg")
	write(t, path, "")
	r := start(t, Config{Path: path, BootID: boot1})
	r.until(t, ready)
	var latencies []time.Duration
	for i := range 200 {
		began := time.Now()
		write(t, path, xidRecord(i+1, 0))
		r.until(t, observed(uint64(i+1)))
		latencies = append(latencies, time.Since(began))
	}
	slices.Sort(latencies)
	t.Logf("line written to batch emitted: p50 %s, p99 %s, max %s", latencies[100], latencies[198], latencies[199])
	if p99 := latencies[198]; p99 > 100*time.Millisecond {
		t.Errorf("p99 from line to batch is %s, want at most 100 ms", p99)
	}
}

func TestResumeIsJSON(t *testing.T) {
	b := start(t, Config{Path: filepath.Join(t.TempDir(), "absent"), BootID: boot1}).until(t, func(source.Batch) bool { return true })
	if !json.Valid(b.Resume) {
		t.Errorf("Resume = %q, want JSON", b.Resume)
	}
}
